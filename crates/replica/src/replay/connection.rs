//! A recorded TCP connection: how it was opened, what either side said in which order, and how the client ended it.
//!
//! Owns the meaning of SYN, FIN and RST. Octets are put in order by [`Half`].

use lucarne_model::{Moment, replay::SessionOpening};

use super::{
    http::{self, HttpExchange},
    packet::Segment,
    stream::{Half, Mark, Stream},
};

/// A whole connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub opening: SessionOpening,
    pub sent: Stream,
    pub answered: Stream,
    pub ending: Ending,
    /// Not all of it was recorded; there may have been more answers.
    pub cut: bool,
    /// Where both sides spoke HTTP/1.
    pub http: Option<Vec<HttpExchange>>,
}

/// How the client ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It had not, or that was not recorded.
    Open,
    Finished(Mark),
    Reset(Mark),
}

/// A connection that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    /// The number that the client opened with.
    pub(super) number: u32,
    opening: SessionOpening,
    client: Half,
    server: Half,
    reset: Option<Mark>,
    over: bool,
}

impl Followed {
    /// From the segment with which the client opens.
    pub(super) fn new(number: u32) -> Self {
        let client = Half::opened(number);
        let (opening, server) = Default::default();
        Self { number, opening, client, server, reset: None, over: false }
    }

    pub(super) fn take(&mut self, from_client: bool, segment: &Segment<'_>, at: Moment) {
        if self.over {
            return;
        }
        let (own, other) =
            if from_client { (&mut self.client, &self.server) } else { (&mut self.server, &self.client) };
        let after = match (segment.acknowledged, other.first) {
            (Some(number), Some(first)) => (number.wrapping_sub(first) as i32).max(0) as usize,
            _ => 0,
        };
        let mark = Mark { at, after: after.min(other.known()) };
        if segment.opens {
            if !from_client {
                own.first.get_or_insert(segment.sequence.wrapping_add(1));
                self.opening = SessionOpening::Accepted;
            }
            return;
        }
        own.take(segment.sequence, segment.octets, segment.ends, mark);
        if segment.resets {
            self.over = true;
            if from_client {
                self.reset = Some(Mark { after: other.known(), ..mark });
            } else if self.opening == SessionOpening::Unanswered {
                self.opening = SessionOpening::Refused;
            }
        }
    }

    /// The connection as far as it was followed.
    pub(super) fn finish(self) -> Connection {
        let torn = self.client.is_torn() || self.server.is_torn();
        let ending = match (self.reset, self.client.ended) {
            (Some(mark), _) => Ending::Reset(mark),
            (None, Some(mark)) => Ending::Finished(mark),
            (None, None) => Ending::Open,
        };
        let server_ended = self.server.ended.is_some() || self.over;
        let (sent, answered) = (self.client.stream, self.server.stream);
        let http = http::exchanges(&sent, &answered, server_ended);
        Connection { opening: self.opening, sent, answered, ending, cut: torn || !server_ended, http }
    }
}
