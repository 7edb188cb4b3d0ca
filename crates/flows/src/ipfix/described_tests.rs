//! What the messages say of themselves: the type records, the dictionary of groups, the sender; and that nothing of the
//! record and of the documentation is left out.

use std::collections::{BTreeMap, BTreeSet};

use lucarne_model::{ConnState, FlowRecord, SecurityGroupId, flow::Path};

use super::{
    Decoder, Exporter, HEADER_LENGTH,
    elements::{ENTERPRISE, FIELDS, group_set_id, own_elements},
    tests::{NOW, fixed_records, message_of, only_template_and_record},
};

/// A message's sets: id and body.
fn all_sets(message: &[u8]) -> Vec<(u16, &[u8])> {
    let (mut rest, mut found) = (&message[HEADER_LENGTH..], Vec::new());
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([c, d]));
        found.push((u16::from_be_bytes([a, b]), &rest[4..length]));
        rest = &rest[length..];
    }
    found
}

/// The bodies of those with this id.
fn sets(message: &[u8], wanted: u16) -> Vec<&[u8]> {
    all_sets(message).into_iter().filter(|(id, _)| *id == wanted).map(|(_, body)| body).collect()
}

fn first_message() -> Vec<u8> {
    Exporter::new(7).with_limit(Exporter::STREAM).with_init(NOW).encode(&fixed_records(), NOW).remove(0)
}

/// Any collector can name and type our elements from the messages alone.
#[test]
fn every_element_of_ours_has_a_type_record() {
    let message = first_message();
    let mut described = BTreeMap::new();
    let mut rest = sets(&message, 264).concat();
    while !rest.is_empty() {
        let length = usize::from(rest[10]);
        let record: Vec<u8> = rest.drain(..11 + length).collect();
        assert_eq!(record[..4], ENTERPRISE.to_be_bytes());
        let number = u16::from_be_bytes([record[4], record[5]]);
        let name = String::from_utf8(record[11..].to_vec()).unwrap();
        let said = (name, record[6], record[7], u16::from_be_bytes([record[8], record[9]]));
        assert_eq!(described.insert(number, said), None, "{number} is described once");
    }
    for element in own_elements() {
        let (name, data_type, kind, unit) = described.remove(&element.number).unwrap();
        let semantics = element.semantics();
        assert_eq!((name.as_str(), data_type), (element.name, element.data_type as u8));
        assert_eq!((kind, unit), (semantics.kind, semantics.unit));
    }
    assert_eq!(described, BTreeMap::new(), "described and never used");
}

#[test]
fn the_dictionary_has_each_set_of_groups_once_and_before_its_first_record() {
    let message = first_message();
    let entries = sets(&message, 267).concat();
    let groups = &fixed_records()[0].groups;
    assert_eq!(entries[..8], group_set_id(groups).to_be_bytes());
    assert_eq!(entries.len(), 8 + 1 + 9 + 2 * 9, "one entry of two groups");
    let place = |wanted| all_sets(&message).iter().position(|(id, _)| *id == wanted);
    assert!(place(267).is_some() && place(267) < place(256));
}

#[test]
fn records_that_name_their_groups_by_the_dictionary_alone_are_understood() {
    let record = &fixed_records()[0];
    let message = first_message();
    let (template, data) = only_template_and_record(&message);
    let (template, data) = without_list(&template, &data, record);
    let dictionary = sets(&message, 3).concat();
    let entry = sets(&message, 267).concat();

    let mut decoder = Decoder::new();
    let before = decoder.decode_rows(&message_of(&[(2, &template), (256, &data)])).unwrap();
    assert_eq!(before[0].groups, [], "not told yet");
    decoder.decode_rows(&message_of(&[(3, &dictionary), (267, &entry)])).unwrap();
    let after = decoder.decode_rows(&message_of(&[(256, &data)])).unwrap();
    assert_eq!(after, std::slice::from_ref(record));
}

/// Template and record without the list of groups, which stands behind five ids of 9 octets, the account and the flow.
fn without_list(template: &[u8], data: &[u8], record: &FlowRecord) -> (Vec<u8>, Vec<u8>) {
    let at = FIELDS.iter().position(|field| field.element.number == 291).unwrap();
    let specifier = |field: &super::elements::Field| if field.element.enterprise.is_some() { 8 } else { 4 };
    let skip = 4 + FIELDS[..at].iter().map(specifier).sum::<usize>();
    let count = u16::from_be_bytes([template[2], template[3]]) - 1;
    let template = [&template[..2], &count.to_be_bytes(), &template[4..skip], &template[skip + 4..]].concat();
    let start = 8 + 8 + 5 * 9;
    let list = 1 + 9 + 9 * record.groups.len();
    (template, [&data[..start], &data[start + list..]].concat())
}

#[test]
fn the_number_of_a_set_is_the_same_everywhere_and_of_that_set_only() {
    let groups = |bits: &[u128]| bits.iter().copied().map(SecurityGroupId::from_bits).collect::<Vec<_>>();
    assert_eq!(group_set_id(&[]), 0);
    assert_eq!(group_set_id(&groups(&[6, 7])), 0x3376_7da5_c079_b772, "hosts of all versions agree");
    let sets: BTreeSet<u64> = (0..1000).map(|n| group_set_id(&groups(&[n, n + 1]))).collect();
    assert_eq!(sets.len(), 1000);
}

#[test]
fn the_sender_says_from_when_its_uptimes_count() {
    let message = first_message();
    let told = sets(&message, 268).concat();
    assert_eq!(told, [&7u32.to_be_bytes()[..], &7u32.to_be_bytes(), &NOW.as_millis().to_be_bytes()].concat());
}

#[test]
#[allow(clippy::disallowed_methods)] // reads the book
fn the_book_has_every_connection_state_with_its_code_and_meaning() {
    let book = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/book/flows.md");
    let book = std::fs::read_to_string(book).unwrap();
    for state in ConnState::ALL {
        let row = format!("| {} | `{}` | {} |", state.code(), state.name(), state.meaning().trim());
        assert!(book.contains(&row), "docs/book/flows.md lacks {row}");
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // reads the book
fn the_book_has_every_path_with_its_code_and_meaning_and_says_which_are_reserved() {
    let book = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/book/flows.md");
    let book = std::fs::read_to_string(book).unwrap();
    for path in Path::ALL {
        let name = serde_json::to_value(path).unwrap();
        let row = format!("| {} | `{}` | {} |", path.code(), name.as_str().unwrap(), path.meaning());
        assert!(book.contains(&row), "docs/book/flows.md lacks {row}");
        assert_eq!(path.meaning().starts_with("Reserved: "), Path::RESERVED.contains(&path));
    }
}

/// A field that the wire forgets would be lost between host and collector.
#[test]
fn every_field_of_the_record_has_an_element() {
    let record = serde_json::to_value(&fixed_records()[0]).unwrap();
    let fields: BTreeSet<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
    let carried: BTreeSet<&str> = FIELDS.iter().map(|field| field.of).collect();
    assert_eq!(carried, fields);
}
