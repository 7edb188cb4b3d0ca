//! HTTP/1.x as far as requests and their answers are told apart: heads, and how long bodies are (RFC 9112, section 6).
//!
//! Owns a reader that takes octets as they come and keeps of a body its length and a digest. What a difference between two answers
//! is worth is decided in [`verdict`](super::verdict).

use lucarne_model::Moment;

use super::stream::Stream;

/// The longest head that is read, and the longest line of a chunk's length.
const LONGEST_HEAD: usize = 64 << 10;
const HEADERS: usize = 128;

/// A request of a recorded connection, and the answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpExchange {
    /// How many octets the client had sent with it.
    pub asked: usize,
    /// Its answer has no body, whatever the head says.
    pub head_only: bool,
    /// None: it was not answered.
    pub answer: Option<Answer>,
    /// How many octets the server had sent with the answer.
    pub answered: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Body,
    /// When the first octet of it came.
    pub began: Moment,
}

/// A body, without what frames it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    pub octets: u64,
    pub digest: Digest,
}

/// FNV-1a: enough to tell apart what nobody tries to make alike, and independent of how octets are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(u64);

impl Digest {
    const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    pub(super) fn of(octets: &[u8]) -> Self {
        Self::EMPTY.and(octets)
    }

    fn and(self, octets: &[u8]) -> Self {
        Self(
            octets
                .iter()
                .fold(self.0, |digest, octet| (digest ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3)),
        )
    }
}

/// The exchanges of a connection; none when its sides do not speak HTTP/1. The server's side is whole if it `ended`.
pub(super) fn exchanges(sent: &Stream, answered: &Stream, ended: bool) -> Option<Vec<HttpExchange>> {
    let mut requests = Reader::of_requests();
    feed(&mut requests, sent);
    if requests.broken || requests.messages.is_empty() {
        return None;
    }
    let heads = requests.messages.iter().map(|message| message.head_only).collect();
    let mut answers = Reader::of_answers(heads);
    feed(&mut answers, answered);
    answers.end(ended);
    if answers.broken || answers.messages.len() > requests.messages.len() {
        return None;
    }
    let mut answers = answers.messages.into_iter();
    let exchanges = requests.messages.into_iter().map(|request| {
        let answer = answers.next();
        let at = answer.as_ref().map_or(usize::MAX, |answer| answer.end);
        let answer = answer.map(|Message { status, body, began, .. }| Answer { status, body, began });
        HttpExchange { asked: request.end, head_only: request.head_only, answer, answered: at }
    });
    Some(exchanges.collect())
}

fn feed(reader: &mut Reader, stream: &Stream) {
    let mut from = 0;
    for piece in &stream.pieces {
        reader.take(&stream.octets[from..piece.end], piece.at);
        from = piece.end;
    }
}

/// Takes one side's octets, and tells its messages.
#[derive(Debug)]
pub(crate) struct Reader {
    side: Side,
    state: State,
    line: Vec<u8>,
    current: Message,
    /// Octets taken.
    taken: usize,
    pub(crate) messages: Vec<Message>,
    /// What came is no HTTP/1, or such that nobody can say where it ends.
    pub(crate) broken: bool,
}

#[derive(Debug)]
enum Side {
    Client,
    /// Of each request, whether its answer has no body.
    Server(Vec<bool>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    ChunkLength,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilEnd,
}

/// A request or a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// 0 of a request.
    pub(crate) status: u16,
    head_only: bool,
    pub(super) body: Body,
    pub(super) began: Moment,
    end: usize,
}

impl Message {
    const NEW: Self = Self {
        status: 0,
        head_only: false,
        body: Body { octets: 0, digest: Digest::EMPTY },
        began: Moment::EPOCH,
        end: 0,
    };
}

/// What a head says of the body behind it.
struct Framing {
    chunked: bool,
    length: Option<u64>,
}

impl Reader {
    fn of_requests() -> Self {
        Self::new(Side::Client)
    }

    /// Of the answers to requests; of each, whether its answer has no body.
    pub(crate) fn of_answers(head_only: Vec<bool>) -> Self {
        Self::new(Side::Server(head_only))
    }

    fn new(side: Side) -> Self {
        let (line, messages) = Default::default();
        Self { side, state: State::Head, line, current: Message::NEW, taken: 0, messages, broken: false }
    }

    pub(crate) fn take(&mut self, mut octets: &[u8], at: Moment) {
        while !octets.is_empty() && !self.broken {
            let taken = match self.state {
                State::Body(left) | State::Chunk(left) => self.take_body(octets, left),
                State::UntilEnd => self.take_body(octets, u64::MAX),
                State::Head | State::ChunkLength | State::ChunkEnd | State::Trailer => self.take_line(octets, at),
            };
            octets = &octets[taken..];
        }
    }

    /// The side has sent all that it will, and `ended` says so itself.
    pub(crate) fn end(&mut self, ended: bool) {
        let begun = self.state != State::Head;
        if ended && begun && !self.broken {
            self.complete();
        }
    }

    fn take_body(&mut self, octets: &[u8], left: u64) -> usize {
        let taken = octets.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let body = &mut self.current.body;
        body.octets += taken as u64;
        body.digest = body.digest.and(&octets[..taken]);
        self.taken += taken;
        let left = left - taken as u64;
        match self.state {
            State::Body(_) if left == 0 => self.complete(),
            State::Body(_) => self.state = State::Body(left),
            State::Chunk(_) if left == 0 => self.state = State::ChunkEnd,
            State::Chunk(_) => self.state = State::Chunk(left),
            _ => {}
        }
        taken
    }

    /// Takes octets up to the end of a line, and what the line says if that is there.
    fn take_line(&mut self, octets: &[u8], at: Moment) -> usize {
        if self.state == State::Head && self.line.is_empty() {
            self.current.began = at;
        }
        let end = octets.iter().position(|octet| *octet == b'\n').map(|end| end + 1);
        let taken = end.unwrap_or(octets.len());
        self.line.extend_from_slice(&octets[..taken]);
        self.taken += taken;
        if self.line.len() > LONGEST_HEAD {
            self.broken = true;
        } else if end.is_some() {
            self.read_line();
        }
        taken
    }

    fn read_line(&mut self) {
        let is_empty = |line: &[u8]| line == b"\r\n" || line == b"\n";
        match self.state {
            // RFC 9112, section 2.2: empty lines before a request are nothing.
            State::Head if is_empty(&self.line) => self.line.clear(),
            State::Head => {
                if self.line.ends_with(b"\r\n\r\n") || self.line.ends_with(b"\n\n") {
                    self.read_head();
                }
            }
            State::ChunkLength => {
                let line = std::mem::take(&mut self.line);
                self.state = match chunk_length(&line) {
                    Some(0) => State::Trailer,
                    Some(length) => State::Chunk(length),
                    None => return self.broken = true,
                };
            }
            State::ChunkEnd => {
                self.broken = !is_empty(&self.line);
                self.line.clear();
                self.state = State::ChunkLength;
            }
            State::Trailer => {
                let last = is_empty(&self.line);
                self.line.clear();
                if last {
                    self.complete();
                }
            }
            State::Body(_) | State::Chunk(_) | State::UntilEnd => {}
        }
    }

    fn read_head(&mut self) {
        let head = std::mem::take(&mut self.line);
        let state = match &self.side {
            Side::Client => request(&head).map(|(head_only, framing)| {
                self.current.head_only = head_only;
                framing.state(State::Body(0))
            }),
            Side::Server(heads) => {
                let head_only = heads.get(self.messages.len()).copied().unwrap_or(false);
                response(&head).and_then(|(status, framing)| {
                    self.current.status = status;
                    match status {
                        // The rest is another protocol's.
                        101 => None,
                        // The answer itself is yet to come.
                        100..200 => Some(State::Head),
                        204 | 304 => Some(State::Body(0)),
                        _ if head_only => Some(State::Body(0)),
                        _ => Some(framing.state(State::UntilEnd)),
                    }
                })
            }
        };
        match state {
            None => self.broken = true,
            Some(State::Body(0)) => self.complete(),
            Some(state) => self.state = state,
        }
    }

    fn complete(&mut self) {
        let mut message = std::mem::replace(&mut self.current, Message::NEW);
        message.end = self.taken;
        self.messages.push(message);
        self.state = State::Head;
        self.line.clear();
    }
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>]) -> Option<Self> {
        let mut framing = Self { chunked: false, length: None };
        for header in headers {
            let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
            if header.name.eq_ignore_ascii_case("transfer-encoding") {
                framing.chunked = value.to_ascii_lowercase().ends_with("chunked");
            } else if header.name.eq_ignore_ascii_case("content-length") {
                framing.length = Some(value.parse().ok()?);
            }
        }
        Some(framing)
    }

    /// How the body is read; `otherwise` when the head does not say.
    fn state(&self, otherwise: State) -> State {
        if self.chunked { State::ChunkLength } else { self.length.map_or(otherwise, State::Body) }
    }
}

/// Whether the answer has no body, and the request's own framing. None: no request, or what follows it is no HTTP.
fn request(head: &[u8]) -> Option<(bool, Framing)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok().filter(httparse::Status::is_complete)?;
    let method = request.method?;
    if method == "CONNECT" {
        return None;
    }
    Some((method == "HEAD", Framing::of(request.headers)?))
}

fn response(head: &[u8]) -> Option<(u16, Framing)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok().filter(httparse::Status::is_complete)?;
    Some((response.code?, Framing::of(response.headers)?))
}

fn chunk_length(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|octet| octet.is_ascii_hexdigit()).count();
    let behind = line.get(digits)?;
    let text = std::str::from_utf8(&line[..digits]).ok()?;
    if b";\r\n \t".contains(behind) { u64::from_str_radix(text, 16).ok() } else { None }
}
