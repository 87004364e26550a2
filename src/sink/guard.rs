//! Where requests may go. Addresses inside (loopback, private, link-local, …) are refused when connecting, after DNS:
//! an address in a definition, or a name that somebody else resolves, must not reach what only this machine can.
//! A destination may lift that for itself (`allow_private`), the operator for networks and hosts (`allow_addresses`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

/// What a destination may reach.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    allow_private: bool,
    allowed: Arc<AllowList>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(
        "{0} is an address inside; set allow_private: true at the destination, or list it in the node's allow_addresses"
    )]
    Inside(String),
    #[error("{host} cannot be looked up: {source}")]
    Lookup { host: String, source: std::io::Error },
}

impl Reach {
    pub fn new(allow_private: bool, allowed: Arc<AllowList>) -> Reach {
        Reach { allow_private, allowed }
    }

    /// Whether an address, found under this name, may be called.
    pub fn permits(&self, host: &str, address: IpAddr) -> bool {
        self.allow_private || is_public(address) || self.allowed.holds(host, address)
    }

    /// The addresses of a host that may be called, at least one. A literal address needs no look-up.
    ///
    /// # Errors
    /// No address, or none that may be called.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ReachError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let found: Vec<SocketAddr> = match literal {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let found = tokio::net::lookup_host((host, port)).await;
                found.map_err(|source| ReachError::Lookup { host: host.to_string(), source })?.collect()
            }
        };
        let permitted: Vec<SocketAddr> = found.into_iter().filter(|address| self.permits(host, address.ip())).collect();
        if permitted.is_empty() { Err(ReachError::Inside(host.to_string())) } else { Ok(permitted) }
    }
}

/// Networks and hosts that may be called although they are inside: `10.1.0.0/16, 127.0.0.1, mail.internal`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    networks: Vec<(IpAddr, u8)>,
    hosts: Vec<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("allow_addresses: `{0}` is neither an address, nor a network like 10.0.0.0/8, nor the name of a host")]
pub struct AllowListError(String);

impl AllowList {
    fn holds(&self, host: &str, address: IpAddr) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host.trim_end_matches('.')))
            || self.networks.iter().any(|(network, prefix)| in_network(address, *network, *prefix))
    }

    fn add(&mut self, entry: &str) -> Result<(), AllowListError> {
        let wrong = || AllowListError(entry.to_string());
        let (address, prefix) = match entry.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (entry, None),
        };
        if let Ok(address) = address.parse::<IpAddr>() {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.unwrap_or(whole);
            if prefix > whole {
                return Err(wrong());
            }
            self.networks.push((address, prefix));
            return Ok(());
        }
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if prefix.is_some() || !entry.chars().all(name) || entry.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return Err(wrong());
        }
        self.hosts.push(entry.trim_end_matches('.').to_string());
        Ok(())
    }
}

impl FromStr for AllowList {
    type Err = AllowListError;

    /// Entries between commas or white space.
    fn from_str(text: &str) -> Result<AllowList, AllowListError> {
        let mut list = AllowList::default();
        let mut entries = text.split([',', ' ', '\n', '\t']).filter(|entry| !entry.is_empty());
        entries.try_for_each(|entry| list.add(entry))?;
        Ok(list)
    }
}

impl<'de> Deserialize<'de> for AllowList {
    /// A text as above, or a list of entries.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<AllowList, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            List(Vec<String>),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::List(entries) => entries.join(","),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn in_network(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let bits = |v6: Ipv6Addr| u128::from(v6);
    match (address.to_canonical(), network.to_canonical()) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let prefix = if prefix > 32 { prefix - 96 } else { prefix };
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            u32::from(address) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            bits(address) & mask == bits(network) & mask
        }
        _ => false,
    }
}

/// False for loopback, private, link-local, shared, multicast, reserved and unspecified addresses, and for those
/// IPv6 addresses that carry an IPv4 one (mapped, NAT64, 6to4) which is not public.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (18..20).contains(&b);
            let protocol = a == 192 && b == 0 && c == 0;
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || shared
                || benchmark
                || protocol)
        }
        IpAddr::V6(v6) => {
            let parts = v6.segments();
            if let Some(v4) = carried(v6) {
                return is_public(IpAddr::V4(v4));
            }
            let unique_local = parts[0] & 0xfe00 == 0xfc00;
            let link_local = parts[0] & 0xffc0 == 0xfe80;
            let documentation = parts[0] == 0x2001 && parts[1] == 0xdb8;
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || unique_local
                || link_local
                || documentation)
        }
    }
}

fn carried(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match parts {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_refused() {
        let inside = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fc00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "ff02::1",
        ];
        for address in inside {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    /// (the list, host, address, whether it may be called)
    #[test]
    fn the_operator_allows_networks_and_hosts() {
        let rows = [
            ("", "crm.internal", "10.1.2.3", false),
            ("", "crm.example", "8.8.8.8", true),
            ("10.1.0.0/16", "crm.internal", "10.1.2.3", true),
            ("10.1.0.0/16", "crm.internal", "10.2.2.3", false),
            ("10.1.0.0/16", "crm.internal", "::ffff:10.1.2.3", true),
            ("::ffff:10.1.0.0/112", "crm.internal", "10.1.2.3", true),
            ("0.0.0.0/0", "crm.internal", "127.0.0.1", true),
            ("127.0.0.1, mail.internal", "mail.internal", "192.168.0.9", true),
            ("127.0.0.1, mail.internal", "MAIL.internal.", "192.168.0.9", true),
            ("127.0.0.1, mail.internal", "other.internal", "192.168.0.9", false),
            ("127.0.0.1, mail.internal", "localhost", "127.0.0.1", true),
            ("fd00::/8", "x", "fd12::1", true),
            ("fd00::/8", "x", "fe80::1", false),
        ];
        for (list, host, address, expected) in rows {
            let reach = Reach::new(false, Arc::new(list.parse().unwrap()));
            assert_eq!(reach.permits(host, address.parse().unwrap()), expected, "{list}: {host} {address}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0", "http://x", "x/8", "10.0.0.0/x"] {
            assert!(wrong.parse::<AllowList>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_after_its_look_up() {
        let outside = Reach::default();
        assert!(matches!(outside.resolve("localhost", 80).await, Err(ReachError::Inside(_))));
        assert!(matches!(outside.resolve("[::1]", 80).await, Err(ReachError::Inside(_))));
        let allowed = Reach::new(false, Arc::new("localhost".parse().unwrap()));
        assert!(allowed.resolve("localhost", 80).await.is_ok());
        assert!(Reach::new(true, Arc::default()).resolve("127.0.0.1", 80).await.is_ok());
    }
}
