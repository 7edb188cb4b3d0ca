//! What a TPM may send: read when it is whole, refused when it is not, never a panic.

use lucarne_attest::wire::{PcrSelection, Writer};
use proptest::prelude::*;

use super::*;

fn framed(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u16(tag).u32((HEADER + body.len()) as u32).u32(code).octets(body);
    writer.into_octets()
}

fn answer(write: impl for<'a> FnOnce(&'a mut Writer) -> &'a mut Writer) -> Answer {
    let mut body = Writer::default();
    write(&mut body);
    parse(&framed(ST_NO_SESSIONS, 0, &body.into_octets()), false).unwrap().unwrap()
}

fn selecting(bank: HashAlgorithm, registers: impl IntoIterator<Item = u8>) -> PcrSelections {
    PcrSelections(vec![PcrSelection::new(bank, registers)])
}

/// All that can be made of an answer, whichever command it was to.
fn read_as_everything(answer: &Answer) {
    drop((answer.nothing(), answer.buffer(), answer.properties(), answer.has_sha256_bank(), answer.primary()));
    drop((answer.created(), answer.loaded(), answer.public(), answer.session(), answer.policy_secret()));
    drop((answer.quote(), answer.pcr_values(), answer.nv_size()));
}

proptest! {
    #[test]
    fn no_octets_make_the_reader_fall_over(octets in prop::collection::vec(any::<u8>(), 0..200), with in any::<bool>()) {
        if let Ok(Ok(answer)) = parse(&octets, with) {
            read_as_everything(&answer);
        }
        let tag = if with { ST_SESSIONS } else { ST_NO_SESSIONS };
        read_as_everything(&parse(&framed(tag, 0, &octets), with).unwrap().unwrap());
    }

    #[test]
    fn registers_come_back_as_they_were_sent(sent in prop::collection::btree_map(0..24u8, any::<[u8; 32]>(), 0..24)) {
        let answer = answer(|to| {
            let selections = selecting(HashAlgorithm::Sha256, sent.keys().copied()).to_octets();
            let to = to.u32(7).octets(&selections).u32(sent.len() as u32);
            sent.values().fold(to, |to, value| to.sized(value))
        });
        prop_assert_eq!(answer.pcr_values(), Ok(sent));
    }

    #[test]
    fn a_quote_that_is_cut_is_refused(
        attest in prop::collection::vec(any::<u8>(), 1..200), cut in any::<prop::sample::Index>(),
    ) {
        let mut whole = Writer::default();
        whole.sized(&attest);
        let octets = whole.into_octets();
        prop_assert!(answer(|to| to.octets(&octets[..cut.index(octets.len())])).quote().is_err());
        let unsigned = answer(|to| to.octets(&octets));
        prop_assert_eq!(unsigned.quote(), Err(Malformed::Unexpected("the signature")));
    }
}

#[test]
fn an_answer_of_another_length_than_it_says_is_refused() {
    let mut octets = framed(ST_NO_SESSIONS, 0, &[]);
    octets.push(0);
    assert_eq!(parse(&octets, false), Err(Malformed::Unexpected("the answer's size")));
    assert!(length([0; HEADER]).is_err());
    assert!(length([0xff; HEADER]).is_err());
}

#[test]
fn a_refusal_is_told_whatever_its_tag_is() {
    for tag in [ST_NO_SESSIONS, ST_SESSIONS] {
        assert_eq!(parse(&framed(tag, 0x101, &[]), true), Ok(Err(ResponseCode::FAILURE)));
    }
}

#[test]
fn an_answer_that_does_not_fit_the_command_is_refused() {
    assert_eq!(parse(&framed(ST_NO_SESSIONS, 0, &[]), true), Err(Malformed::Unexpected("the answer's tag")));
    let properties = answer(|to| to.u8(0).u32(CAP_PCRS).u32(0));
    assert_eq!(properties.properties(), Err(Malformed::Unexpected("the capability")));
    let values = answer(|to| to.u32(0).octets(&selecting(HashAlgorithm::Sha256, [3]).to_octets()).u32(2));
    assert_eq!(values.pcr_values(), Err(Malformed::Unexpected("the count of values")));
    let sha1 = selecting(HashAlgorithm::Sha1, [3]).to_octets();
    let of_sha1 = answer(|to| to.u32(0).octets(&sha1).u32(1).sized(&[0; 20]));
    assert_eq!(of_sha1.pcr_values(), Err(Malformed::Unexpected("the bank")));
    assert_eq!(answer(|to| to.u8(1)).nothing(), Err(WireError::Trailing { count: 1 }.into()));
}

#[test]
fn of_several_banks_only_sha_256_is_asked_after() {
    const SM3: u16 = 0x12;
    let banks = |sha256: &[u8; 3]| {
        answer(|to| {
            to.u8(0).u32(CAP_PCRS).u32(2).u16(SM3).u8(3).octets(&[0xff; 3]);
            to.u16(HashAlgorithm::Sha256.id()).u8(3).octets(sha256)
        })
    };
    assert_eq!(banks(&[0xff; 3]).has_sha256_bank(), Ok(true));
    assert_eq!(banks(&[0; 3]).has_sha256_bank(), Ok(false));
}
