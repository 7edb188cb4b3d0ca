//! `ring INDEX NODES TOKENS`: one machine of a ring whose machines pass numbered tokens on, by datagrams that nobody repeats.
//!
//! Machine N has the address 10.0.1.(10 + N). A token carries an amount: who gets it adds that to its balance, takes another
//! amount of it and sends the token on, with its count of hops. A token that was lost, doubled or invented is so for ever, because a
//! datagram is sent once. Each machine knows with which count a token must come next. The machine 0 takes stock without end: a
//! *marker* goes round behind all that was sent before it and sums up the balances, and what comes to machine 0 before the marker
//! is back was on its way (Chandy and Lamport, "Distributed Snapshots", 1985). So each stock must have every token once, and the
//! sum that there was in the beginning.
//!
//! Without std and libc, for guests that have neither. It says on its output, a line at a time:
//! - `ring: stock N tokens MASK sum SUM`: every 32nd, and each that is other than the one before. The mask has a bit for each token;
//! - `ring: WRONG token N hop H after L`: it came out of order, twice, or from nowhere.
#![no_std]
#![no_main]

#[path = "../../images/bare.rs"]
mod bare;

use core::arch::global_asm;

use bare::{call, exit};

const WRITE: usize = 1;
const SOCKET: usize = 41;
const SEND_TO: usize = 44;
const RECEIVE_FROM: usize = 45;
const BIND: usize = 49;
const SET_OPTION: usize = 54;

const INTERNET: u16 = 2;
const DATAGRAM: usize = 2;
const SOCKET_LEVEL: usize = 1;
const RECEIVE_TIMEOUT: usize = 20;

const PORT: u16 = 7000;
/// Of the number 0.
const MARKER: u64 = 0;
/// Goes round until all machines listen, and is no token.
const GREETING: u64 = u64::MAX;
/// What each machine has at first.
const BALANCE: u64 = 1_000_000;
/// Tokens are numbered from one on; their bits must fit a word.
const MOST: usize = 32;
/// Of so many stocks one is told.
const EVERY: u64 = 32;

// What the compiler calls to fill and to copy, and a libc would have.
global_asm!(".globl memcpy", "memcpy:", "mov rax, rdi", "mov rcx, rdx", "rep movsb", "ret");
global_asm!(
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret"
);

extern "C" fn main(stack: *const usize) -> ! {
    exit(if run(stack).is_some() { 0 } else { 1 })
}

fn run(stack: *const usize) -> Option<()> {
    let [index, nodes, tokens] = [argument(stack, 1)?, argument(stack, 2)?, argument(stack, 3)?];
    if nodes < 2 || index >= nodes || tokens as usize >= MOST {
        return None;
    }
    let mut node = Node::new(index, nodes, tokens)?;
    if index == 0 {
        node.begin();
    }
    loop {
        if let Some(token) = node.receive() {
            node.take(token);
        }
    }
}

/// What goes from machine to machine.
#[derive(Clone, Copy)]
#[repr(C)]
struct Token {
    number: u64,
    hop: u64,
    amount: u64,
}

/// What machine 0 knows of a stock that is being taken.
#[derive(Clone, Copy, Default)]
struct Stock {
    number: u64,
    /// Tokens that were on their way to it, a bit each.
    seen: u64,
    arrived: u64,
    /// Of the stock before.
    told: (u64, u64),
}

struct Node {
    index: u64,
    nodes: u64,
    tokens: u64,
    socket: usize,
    next: [u8; 16],
    balance: u64,
    /// With which count each token came last; the marker's first.
    last: [u64; MOST],
    stock: Stock,
}

impl Node {
    fn new(index: u64, nodes: u64, tokens: u64) -> Option<Self> {
        let socket = call(SOCKET, [INTERNET.into(), DATAGRAM, 0, 0, 0, 0])?;
        // So that who greets can greet again.
        let second: [u64; 2] = [1, 0];
        let timeout = [socket, SOCKET_LEVEL, RECEIVE_TIMEOUT, second.as_ptr() as usize, size_of_val(&second), 0];
        call(SET_OPTION, timeout)?;
        let own = address(index);
        call(BIND, [socket, own.as_ptr() as usize, own.len(), 0, 0, 0])?;
        let next = address((index + 1) % nodes);
        let stock = Stock::default();
        Some(Self { index, nodes, tokens, socket, next, balance: BALANCE, last: [0; MOST], stock })
    }

    /// Waits until all machines listen, and puts the tokens on their way.
    fn begin(&mut self) {
        loop {
            self.send(Token { number: GREETING, hop: 0, amount: 0 });
            if self.receive().is_some_and(|token| token.number == GREETING) {
                break;
            }
        }
        for number in 1..=self.tokens {
            self.send(Token { number, hop: 1, amount: 0 });
        }
        self.send(Token { number: MARKER, hop: 1, amount: self.balance });
    }

    fn take(&mut self, token: Token) {
        if token.number == GREETING {
            if self.index != 0 {
                self.send(token);
            }
            return;
        }
        let Some(last) = self.last.get_mut(token.number as usize) else {
            return Line::new(b"ring: WRONG token ").number(token.number).say();
        };
        let first = if self.index == 0 { self.nodes } else { self.index };
        let expected = if *last == 0 { first } else { *last + self.nodes };
        if token.hop != expected {
            Line::new(b"ring: WRONG token ")
                .number(token.number)
                .text(b" hop ")
                .number(token.hop)
                .text(b" after ")
                .number(*last)
                .say();
        }
        *last = token.hop;
        let hop = token.hop + 1;
        match token.number {
            MARKER if self.index == 0 => {
                self.end_stock(token.amount + self.stock.arrived);
                self.send(Token { number: MARKER, hop, amount: self.balance });
            }
            MARKER => self.send(Token { number: MARKER, hop, amount: token.amount + self.balance }),
            number => {
                self.stock.seen |= 1 << number;
                self.stock.arrived += token.amount;
                self.balance += token.amount;
                // Any share, and another each time.
                let amount = self.balance / 8 * ((hop + number) % 7);
                self.balance -= amount;
                self.send(Token { number, hop, amount });
            }
        }
    }

    fn end_stock(&mut self, sum: u64) {
        let Stock { number, seen, told, .. } = self.stock;
        if number % EVERY == 0 || told != (seen, sum) {
            Line::new(b"ring: stock ").number(number).text(b" tokens ").number(seen).text(b" sum ").number(sum).say();
        }
        self.stock = Stock { number: number + 1, told: (seen, sum), ..Stock::default() };
    }

    fn send(&self, token: Token) {
        let [content, next] = [&raw const token as usize, self.next.as_ptr() as usize];
        let sent = call(SEND_TO, [self.socket, content, size_of::<Token>(), 0, next, self.next.len()]);
        if sent != Some(size_of::<Token>()) {
            Line::new(b"ring: WRONG token ").number(token.number).text(b" could not be sent").say();
        }
    }

    /// None: nothing came for a second.
    fn receive(&self) -> Option<Token> {
        let mut token = Token { number: 0, hop: 0, amount: 0 };
        let came = call(RECEIVE_FROM, [self.socket, &raw mut token as usize, size_of::<Token>(), 0, 0, 0]);
        (came == Some(size_of::<Token>())).then_some(token)
    }
}

/// `struct sockaddr_in` of a machine.
fn address(index: u64) -> [u8; 16] {
    let ([family, _], [high, low]) = (INTERNET.to_le_bytes(), PORT.to_be_bytes());
    [family, 0, high, low, 10, 0, 1, 10 + index as u8, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// An argument, as a number.
fn argument(stack: *const usize, at: usize) -> Option<u64> {
    let mut number = 0;
    // SAFETY: the kernel puts the count of the arguments there, and behind it the address of each, which ends in zero.
    unsafe {
        if at >= *stack {
            return None;
        }
        let mut digit = *stack.add(1 + at) as *const u8;
        while *digit != 0 {
            number = number * 10 + u64::from((*digit).wrapping_sub(b'0'));
            digit = digit.add(1);
        }
    }
    Some(number)
}

/// A line that is being written, so that it comes out whole.
struct Line {
    octets: [u8; 128],
    length: usize,
}

impl Line {
    fn new(text: &[u8]) -> Self {
        Self { octets: [0; 128], length: 0 }.text(text)
    }

    /// What does not fit is left out.
    fn text(mut self, text: &[u8]) -> Self {
        for octet in text {
            if let Some(place) = self.octets.get_mut(self.length) {
                *place = *octet;
                self.length += 1;
            }
        }
        self
    }

    fn number(self, number: u64) -> Self {
        let rest = if number > 9 { self.number(number / 10) } else { self };
        rest.text(&[b'0' + (number % 10) as u8])
    }

    fn say(self) {
        let line = self.text(b"\n");
        call(WRITE, [1, line.octets.as_ptr() as usize, line.length, 0, 0, 0]);
    }
}
