//! What counts of a TPM, over every order in which a host can say things of it.

use lucarne_attest::credential::{self, RANDOMNESS};
use lucarne_model::{AccountId, HostId, Octets, Tags, TpmMakerId, tpm::DesiredChallenge};

use super::*;
use crate::tests::attestation::chip::{Chip, Maker};

const NOW: Moment = Moment::from_secs(1_800_000_000);

fn host_key() -> Digest {
    Digest::from_bytes([4; 32])
}

fn trusted(maker: &Maker) -> Vec<TpmMaker> {
    vec![TpmMaker {
        id: TpmMakerId::from_bits(1),
        account: AccountId::OPERATOR,
        name: "Paper".into(),
        certificate: maker.root.clone(),
        fingerprint: Digest::from_bytes([0; 32]),
        created: NOW,
        tags: Tags::default(),
    }]
}

fn record(chip: &Chip) -> TpmRecord {
    TpmRecord { host: HostId::from_bits(1), presented: chip.presented(), proved: None, failed: None }
}

fn asked(record: &TpmRecord, secret: u8) -> Asked {
    let identity = to_prove(record, &host_key()).expect("something to prove").clone();
    let question = TpmKeys::read(&identity).unwrap().ask([secret; 32], [7; RANDOMNESS]).unwrap();
    Asked { identity, host_key: host_key(), question }
}

fn challenge(asked: &Asked) -> DesiredChallenge {
    let credential::Credential { credential_blob, encrypted_secret } = asked.question.credential().clone();
    DesiredChallenge {
        token: String::new(),
        credential_blob: credential_blob.into(),
        encrypted_secret: encrypted_secret.into(),
    }
}

fn prove(record: &mut TpmRecord, chip: &Chip) {
    let asked = asked(record, 1);
    let answer = chip.answer(&challenge(&asked), &host_key());
    record.proved = Some(settle(record, &asked, &answer, NOW).unwrap());
}

fn code(record: &TpmRecord, makers: &[TpmMaker]) -> Option<ErrorCode> {
    standing(record, Some(&host_key()), makers, NOW).err().map(|reason| reason.code)
}

#[test]
fn an_answer_to_another_question_proves_nothing() {
    let (maker, chip) = (Maker::new(), Chip::new(7, None));
    let record = record(&chip);
    let (one, other) = (asked(&record, 1), asked(&record, 2));
    let answer = chip.answer(&challenge(&other), &host_key());
    assert_eq!(settle(&record, &one, &answer, NOW).unwrap_err().code, ErrorCode::CredentialMismatch);
    let relayed = chip.answer(&challenge(&one), &Digest::from_bytes([5; 32]));
    assert_eq!(settle(&record, &one, &relayed, NOW).unwrap_err().code, ErrorCode::CredentialMismatch);
    let swapped = TpmRecord { presented: Chip::new(7, Some(&maker)).presented(), ..record.clone() };
    let answer = chip.answer(&challenge(&one), &host_key());
    assert_eq!(settle(&swapped, &one, &answer, NOW).unwrap_err().code, ErrorCode::ChallengeExpired);
    assert!(settle(&record, &one, &answer, NOW).is_ok());
}

#[test]
fn what_counts_follows_from_what_is_presented_what_was_proved_and_who_is_trusted() {
    let maker = Maker::new();
    let (makers, chip) = (trusted(&maker), Chip::new(7, Some(&maker)));
    let mut record = record(&chip);
    assert_eq!(code(&record, &makers), Some(ErrorCode::HostNotProved));
    prove(&mut record, &chip);
    assert_eq!(code(&record, &makers), None);
    assert_eq!(to_prove(&record, &host_key()), None);
    assert_eq!(code(&record, &[]), Some(ErrorCode::EndorsementUntrusted));
    let other_key = Digest::from_bytes([5; 32]);
    assert!(standing(&record, Some(&other_key), &makers, NOW).is_err(), "it was proved by a host of another key");
    assert!(to_prove(&record, &other_key).is_some(), "which is asked");
    assert!(standing(&record, None, &makers, NOW).is_err());

    let same_tpm = TpmRecord { presented: Chip::new(7, Some(&maker)).presented(), ..record.clone() };
    assert_eq!(code(&same_tpm, &makers), Some(ErrorCode::HostNotProved), "its new attestation key is not proved");
    assert!(to_prove(&same_tpm, &host_key()).is_some());
    let other_tpm = TpmRecord { presented: Chip::new(8, Some(&maker)).presented(), ..record.clone() };
    assert_eq!(code(&other_tpm, &makers), Some(ErrorCode::TpmChanged));
    assert_eq!(to_prove(&other_tpm, &host_key()), None, "it is not asked: nothing that it answers would count");
    let reason = StateReason { code: ErrorCode::TpmFailed, message: "no answer".into() };
    let broken = TpmRecord { presented: PresentedTpm::None { reason }, ..record };
    assert_eq!(code(&broken, &makers), Some(ErrorCode::TpmFailed));
    let seen = shown(&broken, Some(&host_key()), &makers, NOW);
    assert!(!seen.is_proved() && seen.endorsement_key.is_none());
}

#[test]
fn a_tpm_without_a_certificate_can_prove_its_keys_and_nobody_vouches_for_it() {
    let (maker, chip) = (Maker::new(), Chip::new(7, None));
    let mut record = record(&chip);
    prove(&mut record, &chip);
    assert_eq!(code(&record, &trusted(&maker)), Some(ErrorCode::EndorsementUntrusted));
    let seen = shown(&record, Some(&host_key()), &trusted(&maker), NOW);
    assert!(seen.endorsement_key.is_some() && seen.proved.is_none());
    let presented = record.presented.identity().unwrap();
    assert_eq!(presented.endorsement_certificates, Vec::<Octets>::new());
}
