//! Messages: a query or an update of one name, and its answer (RFC 1035, 4; RFC 2136, 2).

use std::net::Ipv4Addr;

use super::Mark;

const HEADER: usize = 12;
const QR: u8 = 0x80;
const UPDATE: u8 = 5 << 3;
/// Type A, class IN.
const A_IN: [u8; 4] = [0, 1, 0, 1];
/// There is no such name (RFC 1035, 4.1.1).
const NXDOMAIN: u8 = 3;
/// Bytes of a record behind its name: type, class, time to live, length, address.
const RECORD: usize = 14;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The message's identifier.
    pub id: u16,
    /// The name, as a client writes it.
    pub name: String,
    /// An update: its address from now on.
    pub becomes: Option<Ipv4Addr>,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message's identifier.
    pub id: u16,
    /// The response code.
    pub code: u8,
    /// The name.
    pub name: String,
    /// Its address; 0.0.0.0: it has none.
    pub address: Ipv4Addr,
    /// Whose answer it is.
    pub mark: Mark,
}

fn put_name(to: &mut Vec<u8>, name: &str) {
    for label in name.split('.') {
        to.push(label.len() as u8);
        to.extend(label.as_bytes());
    }
    to.push(0);
}

/// A name, and where it ends. Compression isn't spoken here.
fn take_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(std::str::from_utf8(bytes.get(at..at + length)?).ok()?.to_owned());
        at += length;
    }
}

fn put_record(to: &mut Vec<u8>, name: &str, mark: Mark, address: Ipv4Addr) {
    put_name(to, name);
    to.extend(A_IN);
    to.extend(mark.to_be_bytes());
    to.extend([0, 4]);
    to.extend(address.octets());
}

/// A record's name, time to live and address.
fn take_record(bytes: &[u8], at: usize) -> Option<(String, Mark, Ipv4Addr)> {
    let (name, at) = take_name(bytes, at)?;
    let rest: &[u8; RECORD] = bytes.get(at..at + RECORD)?.try_into().ok()?;
    let [_, _, _, _, t, u, v, w, _, _, a, b, c, d] = *rest;
    Some((name, Mark::from_be_bytes([t, u, v, w]), Ipv4Addr::new(a, b, c, d)))
}

fn id_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

impl Ask {
    /// As it is sent: a question, or the zone and one record to add.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        let updates = u8::from(self.becomes.is_some());
        bytes.extend([UPDATE * updates, 0, 0, 1, 0, 0, 0, updates, 0, 0]);
        put_name(&mut bytes, &self.name);
        bytes.extend(A_IN);
        if let Some(address) = self.becomes {
            put_record(&mut bytes, &self.name, 0, address);
        }
        bytes
    }

    /// Reads one. `None`: it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, flags) = (id_of(bytes)?, *bytes.get(2)?);
        let (name, at) = take_name(bytes, HEADER)?;
        let becomes = match flags {
            UPDATE => Some(take_record(bytes, at + A_IN.len())?.2),
            flags if flags & !1 == 0 => None,
            _ => return None,
        };
        Some(Self { id, name, becomes })
    }
}

impl Answer {
    /// A server's, which knows an address or none.
    pub fn to(ask: &Ask, known: Option<Ipv4Addr>, mark: Mark) -> Self {
        let address = known.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let code = if known.is_some() { 0 } else { NXDOMAIN };
        Self { id: ask.id, code, name: ask.name.clone(), address, mark }
    }

    /// As it is sent: the question, and one record.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend([QR, self.code, 0, 1, 0, 1, 0, 0, 0, 0]);
        put_name(&mut bytes, &self.name);
        bytes.extend(A_IN);
        put_record(&mut bytes, &self.name, self.mark, self.address);
        bytes
    }

    /// Reads one. `None`: it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(2)? & QR == 0 {
            return None;
        }
        let (_, at) = take_name(bytes, HEADER)?;
        let (name, mark, address) = take_record(bytes, at + A_IN.len())?;
        Some(Self { id: id_of(bytes)?, code: bytes[3] & 15, name, address, mark })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were() {
        for becomes in [None, Some(Ipv4Addr::new(192, 0, 2, 7))] {
            let ask = Ask { id: 4_711, name: "www.example".into(), becomes };
            assert_eq!(Ask::parse(&ask.bytes()), Some(ask.clone()));
            let answer = Answer::to(&ask, becomes, 7);
            assert_eq!(Answer::parse(&answer.bytes()), Some(answer.clone()));
            assert_eq!((Ask::parse(&answer.bytes()), Answer::parse(&ask.bytes())), (None, None));
            let whole = ask.bytes();
            for end in 0..whole.len() - A_IN.len() {
                assert_eq!(Ask::parse(&whole[..end]), None, "{end} bytes");
            }
        }
    }
}
