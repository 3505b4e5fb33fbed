//! The leave to move refs, once a push is taken, and what goes with it.

use std::{io, sync::atomic::Ordering};

use api::controller::Repository;
use tokio::{io::AsyncReadExt, net::UnixListener};

use crate::{
    conversation::Conversation,
    domain::update::{Change, Plan},
    frames::{Frames, question},
    hook::Terms,
};

impl Conversation<'_> {
    /// Tells the hook that moves the refs whether it may: git may have found it and not the one that asks first.
    pub(crate) async fn let_move(&self, listener: &UnixListener) -> io::Result<()> {
        let (stream, question) = question(listener.accept().await?.0).await?;
        let (mut from_hook, to_hook) = stream.into_split();
        let may = question.is_moving && self.taken.load(Ordering::SeqCst);
        self.is_moving.fetch_or(may, Ordering::SeqCst);
        let mut out = Frames(to_hook);
        if may && question.reads_terms {
            out.write_all(&serde_json::to_vec(&self.terms())?).await?;
        }
        out.end(u8::from(!may)).await?;
        // It sees that we have ended by our having hung up, so we do not before it has.
        let _ = from_hook.read_u8().await;
        Ok(())
    }

    /// Notes where the refs of a push are while it has the right to move them: from there, and from nowhere else. Of a copy
    /// nothing is noted, for the truth is elsewhere and the copy is nobody else's.
    pub(crate) fn note_seen(&self, plan: &Plan, repository: &Repository) {
        if self.pushes.hosting.keeps_packs() {
            return;
        }
        let at = |change: &Change| repository.refs.get_key_value(&change.name);
        let seen = plan.changes().filter_map(at);
        let _ = self.seen.set(seen.map(|(name, id)| (name.clone(), id.clone())).collect());
    }

    /// What the hook that moves the refs has to know.
    fn terms(&self) -> Terms {
        Terms { seen: self.seen.get().cloned(), unmoved: self.unmoved() }
    }

    /// What has come about of a push that was taken and whose refs do not move; empty if nothing has.
    pub(crate) fn unmoved(&self) -> String {
        match (self.pushes.hosting.keeps_packs(), self.deployed.get()) {
            (true, deployed) => {
                let what = deployed.map_or("The push is stored".into(), |commit| {
                    format!("{commit} is deployed and stored")
                });
                format!(
                    "{what} all the same: only the copy of this server could not follow, and it is brought up to date before the next \
                     push. Nothing has to be pushed again."
                )
            }
            (false, Some(commit)) => format!(
                "{commit} is deployed all the same: the receiver has run. When what stands in the way has gone, push again; the \
                 receiver then runs once more."
            ),
            (false, None) => String::new(),
        }
    }
}
