//! The SSH side of a connection: who it is, and what it wants. Anything but a push gets a sentence and exit status 1.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use daemon::Lifetime;
use russh::{
    Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty,
    keys::{Algorithm, PublicKey},
    server::{
        Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    domain::{
        command::{GitCommand, Refusal},
        key::{self, Offered},
    },
    door::Place,
    keyring::{Keyring, Verdict},
    push::{Pusher, Pushes, RESTARTING, Request},
    slots::{CONNECTIONS_OF_KEY_MAX, Slot, Slots},
};

/// Channels a client may have open at once, pushes included; git uses one.
const CHANNELS_MAX: usize = 4;

/// What every connection shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) keyring: Keyring,
    pub(crate) pushes: Arc<Pushes>,
    /// Pushes under way.
    pub(crate) slots: Slots,
    /// Connections of those that have said who they are.
    pub(crate) connections: Slots,
    pub(crate) lifetime: Lifetime,
    /// Is cancelled when pushes under way have to end.
    pub(crate) over: CancellationToken,
}

/// How far a client has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Is cancelled when it has said who it wants to be: it speaks SSH.
    pub(crate) spoke: CancellationToken,
    /// Is cancelled when it has proved who it is and has said what it wants.
    pub(crate) asked: CancellationToken,
    /// Its pushes under way.
    pub(crate) pushes: TaskTracker,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    progress: Progress,
    /// When it was made.
    since: Instant,
    /// Where it comes from.
    source: IpAddr,
    /// Its place among those who have not said who they are.
    stranger: Option<Place>,
    /// Why its keys were refused, if they were.
    refused: Option<String>,
    pusher: Option<(Pusher, Offered)>,
    /// Its place among the connections of its key.
    seat: Option<Slot>,
    channels: Arc<Mutex<HashMap<ChannelId, Open>>>,
    /// Channels it may still open.
    room: Arc<Semaphore>,
}

/// A channel on which nothing was asked for yet, and its place among the client's.
type Open = (Channel<Msg>, OwnedSemaphorePermit);

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, progress: Progress, stranger: Place) -> Self {
        Self {
            shared,
            progress,
            since: Instant::now(),
            source: stranger.source,
            stranger: Some(stranger),
            refused: None,
            pusher: None,
            seat: None,
            channels: Arc::default(),
            room: Arc::new(Semaphore::new(CHANNELS_MAX)),
        }
    }

    /// Decides about a key, before and again after the client has proved that it holds it.
    async fn decide(&mut self, user: &str, key: &PublicKey, algorithm: &Algorithm) -> Auth {
        self.progress.spoke.cancel();
        if let Err(weak) = key::check(key, algorithm) {
            self.refused = Some(format!("This key is not taken: {weak}."));
            return Auth::reject();
        }
        let Some(offered) = Offered::of(key) else { return Auth::reject() };
        match self.shared.keyring.check(user, &offered, self.since, self.source).await {
            Verdict::Known(_) => {
                let fingerprint = offered.fingerprint.clone();
                self.pusher = Some((Pusher { user: user.into(), fingerprint }, offered));
                return Auth::Accept;
            }
            Verdict::Unknown => {
                let fingerprint = key.fingerprint(russh::keys::HashAlg::Sha256);
                let advice = self.shared.keyring.advice();
                self.refused =
                    Some(format!("Your SSH key ({fingerprint}) is not known here{advice}"));
            }
            Verdict::NoAnswer => {
                self.refused = Some(
                    "Your SSH key cannot be checked now, because who decides about keys does not answer. Try again in a minute."
                        .into(),
                );
            }
        }
        Auth::reject()
    }

    fn take(&self, id: ChannelId) -> Option<Open> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// Says one line on the client's terminal and ends the channel with exit status 1.
    fn turn_away(
        &self,
        id: ChannelId,
        line: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.progress.asked.cancel();
        session.channel_success(id)?;
        session.extended_data(id, 1, Bytes::from(format!("{line}\r\n")))?;
        session.exit_status_request(id, 1)?;
        session.eof(id)?;
        session.close(id)?;
        self.take(id);
        Ok(())
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.decide(user, offer.public_key, offer.algorithm).await)
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let decided = self.decide(user, key.public_key, key.algorithm).await;
        if matches!(decided, Auth::Accept)
            && let Some((pusher, _)) = &self.pusher
        {
            let Ok(seat) = self.shared.connections.take(&pusher.fingerprint) else {
                self.refused = Some(format!(
                    "Your key has {CONNECTIONS_OF_KEY_MAX} connections open here. End one, or try again in a minute."
                ));
                return Ok(Auth::reject());
            };
            (self.seat, self.stranger) = (Some(seat), None);
        }
        Ok(decided)
    }

    /// What a client asks first, to hear what else there is.
    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        self.progress.spoke.cancel();
        Ok(Auth::reject())
    }

    /// Nobody gets in this way: it is how an SSH client can be shown a sentence after its keys were refused. (A banner
    /// can be sent only before, when there is nothing to say yet.)
    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        self.progress.spoke.cancel();
        if response.is_some() {
            // Said once is enough: without this the client would ask again.
            let proceed_with_methods = Some(MethodSet::from([MethodKind::PublicKey].as_slice()));
            return Ok(Auth::Reject { proceed_with_methods, partial_success: false });
        }
        let why = self.refused.clone().unwrap_or_else(|| {
            let advice = self.shared.keyring.advice();
            format!("No SSH key was offered. To make one: ssh-keygen -t ed25519{advice}")
        });
        Ok(Auth::Partial {
            name: "".into(),
            instructions: why.into(),
            prompts: [].as_slice().into(),
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let place = self.room.clone().try_acquire_owned();
        let room = place.is_ok();
        if let Ok(place) = place {
            let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            channels.insert(channel.id(), (channel, place));
        }
        if room {
            reply.accept().await;
        } else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let repo = match GitCommand::parse(command, self.shared.pushes.hosting.names()) {
            Ok(GitCommand::ReceivePack(repo)) => repo,
            Err(refusal) => return self.turn_away(id, &refusal.to_string(), session),
        };
        let Some((pusher, offered)) = self.pusher.clone() else {
            return session.channel_failure(id);
        };
        // A connection may be open for long: a key that was removed meanwhile does nothing more.
        let keyring = &self.shared.keyring;
        let verdict = keyring.check(&pusher.user, &offered, Instant::now(), self.source).await;
        let reach = match verdict {
            Verdict::Known(reach) => reach,
            Verdict::Unknown => {
                let line = "Your SSH key was removed here meanwhile.";
                return self.turn_away(id, line, session);
            }
            Verdict::NoAnswer => {
                let line = "Your SSH key cannot be checked now. Try again in a minute.";
                return self.turn_away(id, line, session);
            }
        };
        // Before the look: who stops waits for it, or it sees that.
        let under_way = self.progress.pushes.token();
        if self.shared.lifetime.stop().is_cancelled() {
            return self.turn_away(id, RESTARTING, session);
        }
        let slot = match self.shared.slots.take(&pusher.fingerprint) {
            Ok(slot) => slot,
            Err(full) => return self.turn_away(id, &full.to_string(), session),
        };
        let Some((channel, place)) = self.take(id) else {
            return session.channel_failure(id);
        };
        self.progress.asked.cancel();
        session.channel_success(id)?;
        info!(app.name = %repo, key = pusher.fingerprint, "a push to {repo} begins");
        let (pushes, over) = (self.shared.pushes.clone(), self.shared.over.clone());
        self.shared.lifetime.spawn_drained(async move {
            pushes.serve(Request { repo, pusher, reach }, channel, &over).await;
            drop((slot, place, under_way));
        });
        Ok(())
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.turn_away(id, &Refusal::NotGit.to_string(), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.turn_away(id, &Refusal::NotGit.to_string(), session)
    }

    /// Granted, so that the client shows our sentence and not a complaint about terminals.
    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(id)
    }

    /// Granted and ignored: git sends `GIT_PROTOCOL`, others their locale, and none of it reaches a process.
    async fn env_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(id)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn agent_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        session.channel_failure(id)?;
        Ok(false)
    }
}
