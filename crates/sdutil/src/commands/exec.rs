//! Registering while a command runs.

use std::{net::IpAddr, process::ExitCode};

use discoverd_client::Discoverd;

use super::register::{register, withdraw};
use crate::{
    child::{self, Interrupts},
    config::Labels,
    words::Offer,
};

/// Runs a command. Its services are withdrawn when it ends, and before a signal is passed on to it.
pub(super) async fn run(
    discoverd: &Discoverd,
    host: IpAddr,
    labels: &Labels,
    offers: &[Offer],
    command: &[String],
) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::catch()?;
    let mut running = child::start(command, [])?;
    let mut registrations = Vec::new();
    for offer in offers {
        registrations.push(register(discoverd, host, labels, offer).await?);
    }
    let status = loop {
        tokio::select! {
            status = running.wait() => break status?,
            signal = interrupts.next() => {
                let withdrawn = withdraw(registrations.drain(..)).await;
                child::send(&running, signal);
                withdrawn?;
            }
        }
    };
    withdraw(registrations).await?;
    Ok(child::exit_code(status))
}
