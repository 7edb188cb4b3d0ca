//! Losses on the wire: options data, its scope the account and the host.
//!
//! Owns the template's elements and how a [`FlowLoss`] is written to and read from them. Whose loss it is, and that a sender
//! may only tell its own, is for whoever reads.

use lucarne_model::{AccountId, FlowLoss, HostId, LossCause, Moment};

use super::{
    elements::{DataType, Element, iana, own},
    wire::{BadValue, id, moment, put_id, put_moment, unsigned},
};

/// Elements of the template that are its scope: the first ones.
pub(super) const SCOPE: u16 = 2;
/// The two elements that nothing else has.
pub(super) const LOST_RECORDS: Element = own(62, "lostRecordDeltaCount", DataType::Unsigned64);
pub(super) const LOSS_CAUSE: Element = own(63, "lossCause", DataType::Unsigned8);

/// The template, in the order of the wire.
pub(super) const ELEMENTS: [Element; 6] = [
    own(1, "accountId", DataType::Unsigned64),
    own(6, "hostId", DataType::OctetArray),
    iana(154, "flowStartMicroseconds", DataType::DateTimeMicroseconds),
    iana(155, "flowEndMicroseconds", DataType::DateTimeMicroseconds),
    LOST_RECORDS,
    LOSS_CAUSE,
];

pub(super) fn put(loss: &FlowLoss, out: &mut Vec<u8>) {
    out.extend_from_slice(&loss.account.number().to_be_bytes());
    put_id(loss.host.bits(), out);
    put_moment(loss.since, out);
    put_moment(loss.until, out);
    out.extend_from_slice(&loss.records.to_be_bytes());
    out.push(loss.cause.code());
}

/// Before its values are read. A template of losses has all of [`ELEMENTS`], so each is overwritten.
pub(super) fn blank() -> FlowLoss {
    FlowLoss {
        account: AccountId::OPERATOR,
        host: HostId::from_bits(0),
        since: Moment::EPOCH,
        until: Moment::EPOCH,
        records: 0,
        cause: LossCause::DiskError,
    }
}

/// Reads one value; `at` is its place in [`ELEMENTS`].
pub(super) fn take(at: usize, value: &[u8], loss: &mut FlowLoss) -> Result<(), BadValue> {
    match at {
        0 => loss.account = unsigned(value).and_then(|number| AccountId::from_number(number).ok_or(BadValue))?,
        1 => loss.host = HostId::from_bits(id(value)?),
        2 => loss.since = moment(value)?,
        3 => loss.until = moment(value)?,
        4 => loss.records = unsigned(value)?,
        5 => loss.cause = unsigned(value).and_then(|code| LossCause::from_code(code).ok_or(BadValue))?,
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{
        columns::FlowColumns,
        ipfix::{Decoder, Exporter},
    };

    use super::*;

    prop_compose! {
        fn any_loss()(
            (account, host, records) in any::<(u64, u128, u64)>(),
            (since, until) in (0u64..4_233_462_143_000_000, 0u64..4_233_462_143_000_000),
            cause in prop::sample::select(LossCause::ALL),
        ) -> FlowLoss {
            let (account, host) = (AccountId::from_bits(account), HostId::from_bits(host));
            FlowLoss { account, host, since: Moment(since), until: Moment(until), records, cause }
        }
    }

    proptest! {
        #[test]
        fn losses_come_out_as_they_went_in(losses in prop::collection::vec(any_loss(), 0..200)) {
            let (mut exporter, mut decoder) = (Exporter::new(0), Decoder::new());
            let messages = exporter.encode_losses(&losses, Moment::from_secs(1_800_000_000));
            let read: Vec<FlowLoss> = messages.iter().flat_map(|m| decoder.decode(m, &mut FlowColumns::default()).unwrap().losses).collect();
            prop_assert_eq!(read, losses);
        }
    }

    #[test]
    fn a_cause_that_does_not_exist_is_refused() {
        assert!(take(5, &[0], &mut blank()).is_err());
    }
}
