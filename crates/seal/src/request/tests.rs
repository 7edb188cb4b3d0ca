//! A request that makes no sense cannot be had, and one that does has one text.

use lucarne_statement::canonical;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    example::{HOUR, NOW, operation, read, recipient, request, terms},
    operation::OperationName,
};

#[test]
fn a_request_reads_back_from_its_canonical_text() {
    for one in [request(read(16), terms()), request(operation(OperationName::GuestMemoryWrite), terms())] {
        let text = canonical::write(&one).expect("a text");
        assert_eq!(canonical::read::<Request>(&text), Ok(one));
    }
}

/// The first version's text, as it is signed: a change of it would make old requests unreadable.
#[test]
fn the_text_is_that_of_version_1() {
    let text = canonical::write(&request(read(16), terms())).expect("a text");
    let expected = concat!(
        r#"{"lowest_policy":3,"nonce":"BwcHBwcHBwcHBwcHBwcHBw==","not_after":1800003600000000,"not_before":1799996400000000,"#,
        r#""operation":{"arguments":{"address":"0x1000","length":16,"space":"physical"},"name":"guest.memory.read","version":1},"#,
        r#""purpose":"ticket 4711","result":{"most_octets":1073741824,"padding":"padme","recipients":["RECIPIENT"]},"#,
        r#""target":{"host":"host-00000000000000001","host_key":"HOST_KEY","#,
        r#""instance":{"account":"100000000005","generation":2,"id":"i-00000000000000007"}}}"#
    );
    let expected = expected.replace("RECIPIENT", &recipient().to_string());
    let expected = expected.replace("HOST_KEY", terms().target.host_key.as_str());
    assert_eq!(String::from_utf8(text).expect("text"), expected);
}

#[test]
fn a_request_that_makes_no_sense_cannot_be_had() {
    let refused = |change: fn(&mut Terms)| {
        let mut terms = terms();
        change(&mut terms);
        Request::new(read(1), terms).expect_err("refused")
    };
    assert_eq!(refused(|it| it.not_after = it.not_before), RequestError::Validity);
    assert_eq!(refused(|it| it.not_after = it.not_before.plus(25 * HOUR)), RequestError::Validity);
    assert_eq!(refused(|it| it.result.recipients.clear()), RequestError::Recipients);
    assert_eq!(refused(|it| it.result.recipients.push(recipient())), RequestError::Recipients);
    assert!(matches!(refused(|it| it.target.instance = None), RequestError::Target { .. }));
    let health = operation(OperationName::HostHealth);
    assert!(matches!(Request::new(health, terms()), Err(RequestError::Target { .. })));
}

proptest! {
    /// Whatever is read as a request is written as the same octets, and serde's own reader understands the same by it.
    #[test]
    fn what_is_read_is_what_was_written(
        length in 1..=4096u64, before in 0..1_000_000_000u64, span in 1..=86_400u64, purpose in "[ -~]{1,80}", policy in 0..1u64 << 53,
    ) {
        let mut terms = terms();
        terms.not_before = Moment::from_secs(before);
        terms.not_after = Moment::from_secs(before + span);
        terms.purpose = purpose.parse().expect("a text");
        terms.lowest_policy = policy;
        let one = request(read(length), terms);
        let text = canonical::write(&one).expect("a text");
        prop_assert_eq!(canonical::read::<Request>(&text), Ok(one));
        let value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        prop_assert_eq!(&value["purpose"], &json!(purpose));
        prop_assert_eq!(&value["operation"]["arguments"]["length"], &json!(length));
        prop_assert!(NOW > Moment::EPOCH);
    }
}

#[test]
fn several_hosts_are_asked_of_operations_on_hosts_alone_and_each_by_its_own_key() {
    let other = lucarne_model::HostId::from_bits(2);
    let others = |host| [(host, crate::example::key(50).public().id())].into_iter().collect();
    let fleet = |operation_of, host, is_of_host: bool| {
        let mut terms = terms();
        terms.target.others = others(host);
        terms.target.instance = terms.target.instance.filter(|_| !is_of_host);
        Request::new(operation_of, terms)
    };
    let health = || operation(OperationName::HostHealth);
    let asked = fleet(health(), other, true).expect("a request");
    assert_eq!(asked.target().hosts().count(), 2);
    assert_eq!(asked.target().key_of(other), Some(&crate::example::key(50).public().id()));
    assert_eq!(asked.target().key_of(lucarne_model::HostId::from_bits(3)), None);
    assert_eq!(fleet(health(), terms().target.host, true).unwrap_err(), RequestError::Fleet);
    assert_eq!(fleet(read(16), other, false).unwrap_err(), RequestError::Fleet);
    let text = canonical::write(&asked).expect("a text");
    assert_eq!(canonical::read::<Request>(&text), Ok(asked));
}

/// What a second reader might take for something else: other spellings of the same, fields twice, numbers in other forms.
fn pieces() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "\"length\":16",
        "\"length\":17",
        "\"length\":16.0",
        "\"length\":1.6e1",
        "\"length\":-0",
        "\\u0061",
        "\u{feff}",
        " ",
        "\n",
        ",",
        "\"purpose\":\"other\"",
        "null",
        "{}",
        "\\/",
        "\"\\ud800\"",
        "18446744073709551617",
        "\"nonce\":\"\"",
        "/**/",
        "\u{0}",
        "}",
    ])
}

proptest! {
    /// Attack: one text, two meanings. Whatever the strict reader takes, a reader that knows nothing of it takes for the same, and
    /// writes as the same text; whatever that one takes beside it, the strict one refuses.
    #[test]
    fn two_readers_never_take_one_text_for_two_requests(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, pieces()), 0..3),
    ) {
        let mut text = String::from_utf8(canonical::write(&request(read(16), terms())).expect("a text")).expect("text");
        for (at, cut, piece) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, piece);
            }
        }
        let strict = canonical::read::<Request>(text.as_bytes());
        let lenient = serde_json::from_str::<serde_json::Value>(&text);
        match (strict, lenient) {
            (Ok(strict), Ok(value)) => {
                prop_assert_eq!(canonical::write(&value).expect("a text"), text.into_bytes());
                prop_assert_eq!(serde_json::from_value::<Request>(value).expect("a request"), strict);
            }
            (Ok(_), Err(error)) => prop_assert!(false, "taken by one alone: {}", error),
            (Err(_), Ok(value)) => {
                let meant = serde_json::from_value::<Request>(value);
                let own = meant.ok().and_then(|meant| canonical::write(&meant).ok());
                prop_assert_ne!(own, Some(text.into_bytes()), "refused, and it is the one text of a request");
            }
            (Err(_), Err(_)) => {}
        }
    }
}
