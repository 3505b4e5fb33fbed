//! The DNS zone `discoverd.`: what to answer to a query.

use std::net::{IpAddr, SocketAddr};

use api::discoverd::Instance;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{SOA, SRV},
    },
};
use rand::{Rng, seq::SliceRandom};

use super::{directory::Directory, name::ServiceName};

/// Most answers over UDP: they must fit into 512 bytes.
const UDP_ANSWERS: usize = 3;
/// Largest UDP message we announce to take.
const UDP_PAYLOAD: u16 = 1232;
/// Bytes of a DNS header.
const HEADER: usize = 12;

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// It is about another zone: ask somebody else.
    Forward,
    /// It is no query.
    Ignore,
}

/// How the query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Datagrams, which must be small.
    Udp,
    /// A stream.
    Tcp,
}

/// Answers a query. `directory` is `None` as long as nothing is known.
pub(crate) fn answer(
    query: &[u8],
    transport: Transport,
    directory: Option<&Directory>,
    rng: &mut impl Rng,
) -> Answer {
    if query.len() < HEADER {
        return Answer::Ignore;
    }
    let Ok(message) = Message::from_vec(query) else {
        let id = u16::from_be_bytes([query[0], query[1]]);
        let is_response = query[2] & 0x80 != 0;
        return if is_response {
            Answer::Ignore
        } else {
            error(id, OpCode::Query, ResponseCode::FormErr)
        };
    };
    let head = &message.metadata;
    if head.message_type == MessageType::Response {
        return Answer::Ignore;
    }
    if head.op_code != OpCode::Query {
        return error(head.id, head.op_code, ResponseCode::NotImp);
    }
    let [question] = message.queries.as_slice() else {
        return error(head.id, head.op_code, ResponseCode::FormErr);
    };
    let labels: Vec<String> = question
        .name()
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    match (labels.split_last(), directory) {
        (Some((zone, inside)), Some(directory)) if zone == "discoverd" => {
            if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
                return error(head.id, head.op_code, ResponseCode::Refused);
            }
            let reply = look_up(&message, question, inside, transport, directory, rng);
            match reply.to_vec() {
                Ok(bytes) => Answer::Reply(bytes),
                Err(_) => error(head.id, head.op_code, ResponseCode::ServFail),
            }
        }
        (Some((zone, _)), None) if zone == "discoverd" => {
            error(head.id, head.op_code, ResponseCode::ServFail)
        }
        _ => Answer::Forward,
    }
}

fn look_up(
    query: &Message,
    question: &Query,
    labels: &[String],
    transport: Transport,
    directory: &Directory,
    rng: &mut impl Rng,
) -> Message {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    reply.add_query(question.clone());
    match find(labels, directory) {
        None => reply.metadata.response_code = ResponseCode::NXDomain,
        Some(mut instances) => {
            instances.shuffle(rng);
            if transport == Transport::Udp {
                instances.truncate(UDP_ANSWERS);
            }
            fill(&mut reply, question.name(), question.query_type(), labels, &instances);
        }
    }
    if reply.answers.is_empty()
        && let Some(soa) = soa(directory.revision())
    {
        reply.add_authority(soa);
    }
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        reply.set_edns(edns);
    }
    reply
}

/// A reply that says the query could not be answered.
pub(crate) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
    reply.metadata.recursion_desired = message.metadata.recursion_desired;
    reply.metadata.response_code = ResponseCode::ServFail;
    reply.add_queries(message.queries);
    reply.to_vec().ok()
}

fn error(id: u16, op_code: OpCode, code: ResponseCode) -> Answer {
    match Message::error_msg(id, op_code, code).to_vec() {
        Ok(bytes) => Answer::Reply(bytes),
        Err(_) => Answer::Ignore,
    }
}

/// The instances a name stands for, `None` if there is no such name.
fn find(labels: &[String], directory: &Directory) -> Option<Vec<Instance>> {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let service = |name: &str| {
        let name = ServiceName::parse_alias(name).ok()?;
        Some((directory.service(name.as_str())?, name))
    };
    let all = |name: &str| {
        let (service, _) = service(name)?;
        Some(service.instances().map(|held| held.instance.clone()).collect::<Vec<_>>())
    };
    match labels.as_slice() {
        [] => Some(Vec::new()),
        [name] => all(name),
        ["leader", name] => {
            let (_, name) = service(name)?;
            Some(directory.leader(name.as_str()).into_iter().map(|one| one.instance).collect())
        }
        [name, proto] => {
            let (name, proto) = (name.strip_prefix('_')?, proto.strip_prefix('_')?);
            let mut instances = all(name)?;
            instances.retain(|one| proto == "tcp" || one.proto == proto);
            Some(instances)
        }
        [id, name, "_i"] => {
            let (_, name) = service(name)?;
            Some(vec![directory.instance(name.as_str(), id)?.instance.clone()])
        }
        _ => None,
    }
}

fn fill(
    reply: &mut Message,
    name: &Name,
    kind: RecordType,
    labels: &[String],
    instances: &[Instance],
) {
    let service = labels.iter().find(|label| *label != "leader" && label.len() != 32);
    for instance in instances {
        let Ok(addr) = instance.addr.parse::<SocketAddr>() else { continue };
        let data = match addr.ip() {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        if kind == data.record_type() || (kind == RecordType::ANY && !is_srv(labels)) {
            reply.add_answer(Record::from_rdata(name.clone(), 0, data));
        } else if matches!(kind, RecordType::SRV | RecordType::ANY) {
            let service = service.map_or("", |label| label.trim_start_matches('_'));
            let target = format!("{}.{service}._i.discoverd.", instance.id);
            let Ok(target) = Name::from_ascii(target) else { continue };
            let srv = RData::SRV(SRV::new(1, 1, addr.port(), target.clone()));
            reply.add_answer(Record::from_rdata(name.clone(), 0, srv));
            reply.add_additional(Record::from_rdata(target, 0, data));
        }
    }
}

fn is_srv(labels: &[String]) -> bool {
    labels.first().is_some_and(|label| label.starts_with('_'))
}

fn soa(revision: u64) -> Option<Record> {
    let zone = Name::from_ascii("discoverd.").ok()?;
    let mname = Name::from_ascii("ns.discoverd.").ok()?;
    let rname = Name::from_ascii("hostmaster.discoverd.").ok()?;
    // A serial number is compared modulo 2^32.
    let serial = revision as u32;
    // Nothing is kept by anybody, least of all that something is not there.
    let soa = SOA::new(mname, rname, serial, 1, 1, 1, 0);
    Some(Record::from_rdata(zone, 0, RData::SOA(soa)))
}

#[cfg(test)]
mod tests;
