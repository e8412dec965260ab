//! The known answers of the second implementation (tests/vectors, one folder up), read by this one.

use std::time::Duration;

use _dataplane::core::cookie;
use _dataplane::core::frame::{self, Frame};
use _dataplane::core::handshake::Responder;
use _dataplane::core::ip6::{checksum_offset, TCP};
use _dataplane::core::key::{address_of_key, cookie_key, mac, mac1_key, mask_hasher, psk_id, public_key, Key};
use _dataplane::core::message::{self, Datagram};
use _dataplane::core::packet::Packet;
use _dataplane::core::rejoin::{Origin, Rejoin};
use _dataplane::core::session::{Cipher, Session, Terms};
use _dataplane::core::virtio::{Virtio, GSO_TCP6, GSO_UDP_L4, NEEDS_CHECKSUM};
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let path = format!("{}/../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let parsed: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let cases = parsed.as_array().cloned().unwrap_or_default();
    assert!(!cases.is_empty(), "{path} is empty");
    cases
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap_or_else(|_| panic!("{text}")))
        .collect()
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    unhex(case[field].as_str().unwrap_or_else(|| panic!("no {field}")))
}

fn sized<const N: usize>(case: &Value, field: &str) -> [u8; N] {
    bytes(case, field).try_into().unwrap_or_else(|_| panic!("{field} is not {N} bytes"))
}

fn number(case: &Value, field: &str) -> u64 {
    case[field].as_u64().unwrap_or_else(|| panic!("no {field}"))
}

#[test]
fn identity() {
    for case in cases("identity") {
        let public = public_key(&sized(&case, "node_private_key"));
        assert_eq!(public, sized(&case, "node_key"));
        assert_eq!(address_of_key(&public), sized(&case, "address"));
    }
}

#[test]
fn handshake() {
    for case in cases("handshake") {
        let datagram = bytes(&case, "initiation");
        let Some(Datagram::Initiation(initiation)) = message::parse(&datagram) else { panic!("not an initiation") };
        assert_eq!(u64::from(initiation.sender_index), number(&case, "initiator_index"));
        let key = mac1_key(&sized::<32>(&case, "responder_key"));
        assert_eq!(key, sized(&case, "initiation_mac1_key"));
        assert_eq!(mac(&key, &[initiation.mac1_over]), initiation.mac1);
        let read = Responder::read(&sized(&case, "responder_private_key"), initiation.noise);
        let Some(read) = read else { panic!("not read") };
        assert_eq!(read.remote, sized(&case, "initiator_key"));
        assert_eq!(read.hello.timestamp, sized(&case, "timestamp"));
        assert_eq!(read.hello.psk_id, sized(&case, "psk_id"));
        assert_eq!(u64::from(read.hello.features), number(&case, "features"));
        let datagram = bytes(&case, "response");
        let Some(Datagram::Response(response)) = message::parse(&datagram) else { panic!("not a response") };
        let key = mac1_key(&initiation.noise[..32]);
        assert_eq!(key, sized(&case, "response_mac1_key"));
        assert_eq!(mac(&key, &[response.mac1_over]), response.mac1);
    }
}

#[test]
fn cookies() {
    for case in cases("cookie") {
        let address = [bytes(&case, "address"), (number(&case, "port") as u16).to_be_bytes().to_vec()].concat();
        let made = mac(&sized::<32>(&case, "secret"), &[&address]);
        assert_eq!(made, sized(&case, "cookie"));
        let (initiation, reply) = (bytes(&case, "initiation"), bytes(&case, "cookie_reply"));
        let Some(Datagram::Initiation(asked)) = message::parse(&initiation) else { panic!("not an initiation") };
        let Some(Datagram::CookieReply(reply)) = message::parse(&reply) else { panic!("not a cookie reply") };
        let key: Key = cookie_key(&sized(&case, "cookie_sender_key"));
        assert_eq!(cookie::open(&key, reply.nonce, reply.sealed, asked.mac1), Some(made));
        assert_eq!(cookie::seal(&key, &sized(&case, "nonce"), &made, asked.mac1), reply.sealed);
        let again = bytes(&case, "initiation_with_mac2");
        let Some(Datagram::Initiation(again)) = message::parse(&again) else { panic!("not an initiation") };
        assert_eq!(mac(&made, &[again.mac2_over]), again.mac2);
    }
}

#[test]
fn hybrid_psk_ids() {
    for case in cases("hybrid") {
        assert_eq!(psk_id(&sized(&case, "hybrid_psk")), sized(&case, "psk_id"));
    }
}

#[test]
fn data_under_chacha20() {
    opens(&cases("data"), Cipher::ChaCha20Poly1305);
}

#[test]
fn data_under_aes() {
    opens(&cases("data_aes"), Cipher::Aes256Gcm);
}

fn opens(cases: &[Value], cipher: Cipher) {
    for case in cases {
        let key: Key = sized(case, "key");
        let mask: [u8; 16] = sized(case, "mask_key");
        let half = |at: usize| u64::from_le_bytes(mask[at..at + 8].try_into().unwrap_or_default());
        assert_eq!(mask_hasher(&key).keys(), (half(0), half(8)));
        let index = number(case, "receiver_index") as u32;
        let terms = Terms { indices: (index, 0), is_hybrid: false, now: Duration::ZERO };
        let mut session = Session::new(&[key, [0; 32]], false, cipher, terms);
        let mut datagram = bytes(case, "datagram");
        let opened = session.open(&mut datagram, Duration::ZERO).unwrap_or_else(|drop| panic!("{drop:?}"));
        assert_eq!((opened.counter, &opened.frame[..]), (number(case, "counter"), &bytes(case, "frame")[..]));
    }
}

#[test]
fn frames() {
    for case in cases("frames") {
        let given = bytes(&case, "frame");
        let Some(read) = frame::parse(&given) else { panic!("{case}") };
        match (case["kind"].as_str(), read) {
            (Some("nothing"), Frame::Nothing) => {}
            (Some("fragment"), Frame::Fragment { last, id, bytes: body }) => {
                assert_eq!((Some(last), u64::from(id)), (case["last"].as_bool(), number(&case, "id")));
                assert_eq!(body, bytes(&case, "body"));
            }
            (Some("control"), Frame::Control(message)) => assert_eq!(message, bytes(&case, "message")),
            (Some("probe"), Frame::Probe(token)) => assert_eq!(token, sized(&case, "token")),
            (Some("probe reply"), Frame::ProbeReply(token, length)) => {
                assert_eq!((token, u64::from(length)), (sized(&case, "token"), number(&case, "length")));
            }
            (Some("packet"), Frame::Packet(shape)) => {
                assert_eq!(Some(shape.partial), case["partial"].as_bool());
                assert_eq!(Some(shape.joined), case["joined"].as_bool());
                let (source, destination) = (sized(&case, "source"), sized(&case, "destination"));
                let origin = Origin { session: 1, counter: 1, source: &source, destination: &destination };
                let mut rejoin = Rejoin::new(9000, true);
                assert!(rejoin.add(&given, 0, shape, origin).is_ok());
                assert_eq!(written(&mut rejoin, &given), without_checksum(&bytes(&case, "packet"), shape.partial));
            }
            (kind, read) => panic!("{kind:?} was read as {read:?}"),
        }
    }
}

/// The one packet of a batch, without its virtio header, a checksum that was left partial zeroed.
fn written(rejoin: &mut Rejoin, arena: &[u8]) -> Vec<u8> {
    rejoin.finish();
    let packets: Vec<_> = rejoin.runs().collect();
    assert_eq!(packets.len(), 1);
    let (head, pieces, _) = packets[0];
    let whole = pieces.iter().fold(head[10..].to_vec(), |all, piece| [&all, &arena[piece.clone()]].concat());
    without_checksum(&whole, head[0] & NEEDS_CHECKSUM != 0)
}

fn without_checksum(packet: &[u8], partial: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(at) = checksum_offset(packet[6]).filter(|_| partial) {
        packet[40 + at..42 + at].fill(0);
    }
    packet
}

#[test]
fn malformed_frames() {
    for case in cases("malformed_frames") {
        let given = bytes(&case, "frame");
        let passes = match frame::parse(&given) {
            None => false,
            Some(Frame::Packet(shape)) => {
                let origin = Origin { session: 1, counter: 1, source: &[0xfc; 16], destination: &[0xfc; 16] };
                Rejoin::new(1400, true).add(&given, 0, shape, origin).is_ok()
            }
            Some(_) => true,
        };
        assert!(!passes, "{}", case["reason"]);
    }
}

#[test]
fn superpackets() {
    for case in cases("superpackets") {
        let ip6 = bytes(&case, "superpacket");
        let segment = number(&case, "segment_bytes") as u16;
        let virtio = Virtio {
            flags: NEEDS_CHECKSUM,
            gso: if ip6[6] == TCP { GSO_TCP6 } else { GSO_UDP_L4 },
            header_bytes: 40 + number(&case, "transport_header_bytes") as u16,
            segment_bytes: segment,
            checksum_start: 40,
            checksum_offset: checksum_offset(ip6[6]).unwrap_or_default() as u16,
        };
        let buffer = [&virtio.write()[..], &ip6].concat();
        let end = buffer.len();
        let own: [u8; 16] = sized(&case, "source");
        let Ok(mut packet) = Packet::new(buffer.into(), end, &own, Duration::ZERO) else { panic!("refused") };
        let wanted: Vec<Vec<u8>> = case["frames"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|hex| unhex(hex.as_str().unwrap_or_default()))
            .collect();
        for want in &wanted {
            let mut got = vec![0xee; packet.next_frame_bytes(9000)];
            packet.write_next_frame(&mut got, 9000, false);
            let at = 8 + checksum_offset(ip6[6]).unwrap_or_default();
            got[at..at + 2].fill(0);
            assert_eq!(&got, want);
        }
        assert!(packet.is_done());
    }
}
