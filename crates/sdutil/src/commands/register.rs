//! Registering.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use anyhow::Context;
use api::discoverd::Instance;
use discoverd_client::{Discoverd, Registration};
use tokio::net::UdpSocket;

use crate::{
    child::Interrupts,
    config::{Address, Labels},
    words::Offer,
};

/// What services are offered over, as far as anybody need know here.
const PROTO: &str = "tcp";

/// Registers until a signal comes, then withdraws.
pub(super) async fn until_interrupted(
    discoverd: &Discoverd,
    host: IpAddr,
    labels: &Labels,
    offer: &Offer,
) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::catch()?;
    let registration = register(discoverd, host, labels, offer).await?;
    interrupts.next().await;
    withdraw([registration]).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn register(
    discoverd: &Discoverd,
    host: IpAddr,
    labels: &Labels,
    Offer { service, port }: &Offer,
) -> anyhow::Result<Registration> {
    let addr = SocketAddr::new(host, *port);
    let instance = Instance::new(PROTO, &addr.to_string(), labels.meta());
    discoverd
        .heartbeat(service, instance)
        .await
        .with_context(|| format!("registering {addr} for {service}"))
}

pub(super) async fn withdraw(
    registrations: impl IntoIterator<Item = Registration>,
) -> anyhow::Result<()> {
    for registration in registrations {
        let addr = registration.instance().addr.clone();
        registration.withdraw().await.with_context(|| format!("withdrawing {addr}"))?;
    }
    Ok(())
}

/// The address to register: the one given, that of an interface, or the one from which discoverd is reached.
pub(super) async fn address(given: &Address, discoverd: &Discoverd) -> anyhow::Result<IpAddr> {
    if let Some(host) = given.host {
        return Ok(host);
    }
    if let Some(interface) = &given.interface {
        return of_interface(interface)
            .await
            .with_context(|| format!("finding the address of interface {interface}"));
    }
    if let Some(ip) = given.external_ip {
        return Ok(ip);
    }
    let base = discoverd.client().endpoint().bases().first().cloned().unwrap_or_default();
    let place = base.split_once("://").map_or(base.as_str(), |(_, place)| place);
    let place = place.split('/').next().unwrap_or(place);
    towards(place).await.with_context(|| {
        format!("finding the address from which {place} is reached; give one with -h")
    })
}

/// Nothing is sent: connecting a datagram socket only looks up the route.
async fn towards(place: &str) -> anyhow::Result<IpAddr> {
    let place = tokio::net::lookup_host(place).await?.next().context("it has no address")?;
    let any = if place.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(place).await?;
    Ok(socket.local_addr()?.ip())
}

async fn of_interface(interface: &str) -> anyhow::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // Any address will do: bound to the interface, the socket takes the interface's own.
    socket.connect("192.0.2.1:9").await?;
    let ip = socket.local_addr()?.ip();
    anyhow::ensure!(!ip.is_unspecified(), "it has no IPv4 address");
    Ok(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_address_is_the_one_given_or_found() {
        let discoverd = Discoverd::new("http://127.0.0.1:1", None);
        let given = |host, interface: Option<&str>, external_ip| Address {
            host,
            interface: interface.map(Into::into),
            external_ip,
            help: None,
        };
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let found = address(&given(Some(one), None, Some(two)), &discoverd).await.unwrap();
        assert_eq!(found, one);
        assert_eq!(address(&given(None, None, Some(two)), &discoverd).await.unwrap(), two);
        let local: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(address(&given(None, None, None), &discoverd).await.unwrap(), local);
        assert!(address(&given(None, Some("no-such"), None), &discoverd).await.is_err());
    }
}
