//! What a host does that is told of a recovery on another one.

use tokio::time::timeout;
use tracing::{info, warn};

use super::{ANSWER, RecoveryError, alone, epoch, is_unsettled};
use crate::{
    etcd::{Role, peer_url},
    routes::App,
};

/// What counts for it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// A recovery of its own is under way, and etcd did not serve with it yet.
    unsettled: bool,
    /// The epoch that began with the other's; an older daemon does not say it.
    told: Option<u64>,
    /// The epoch of the etcd that this host asks, if that answers.
    known: Option<u64>,
    /// Its member began a cluster. One that was added to another's knows which it is.
    began: bool,
    /// Its own etcd has a quorum.
    serves_here: bool,
    /// The other is a member of the etcd that this host follows.
    follows: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It follows the other from now on.
    Follow,
    /// It does already, or something newer.
    Done,
    /// It does already, and gives up the member that it has still of before.
    GiveUp,
    /// Nothing may change here yet.
    Refuse(&'static str),
}

fn answer(seen: Seen) -> Answer {
    if seen.unsettled {
        // What it had is put aside, and is put back when it finds the other's etcd by itself.
        return Answer::Refuse("etcd is being recovered on this host too; tell it again");
    }
    match (seen.told, seen.known) {
        (Some(told), Some(known)) if known > told => Answer::Done,
        (Some(told), Some(known)) if known == told => match seen {
            Seen { began: false, .. } => Answer::Done,
            Seen { serves_here: false, follows: true, .. } => Answer::GiveUp,
            _ => Answer::Refuse(
                "etcd was recovered on this host too, at the same time; decide which of the two goes on, and on the other \
                 stop what runs there, remove its data directory, and join anew",
            ),
        },
        _ => Answer::Follow,
    }
}

/// Follows the etcd of a host that was recovered, unless this host does already: told late or twice, it would give up the
/// member it has been given meanwhile.
pub(crate) async fn follow(app: &App, host: &str, told: Option<u64>) -> Result<(), RecoveryError> {
    let refused = |said: String| Err(RecoveryError::Refused(said));
    let Some(neighbours) = &app.neighbours else {
        return refused("this host is alone".into());
    };
    let Some(record) = neighbours.grid.now().hosts.get(host).cloned() else {
        return refused(format!("this host knows no host {host}"));
    };
    if host == neighbours.id {
        return Ok(());
    }
    let before = neighbours.grid.now().members.clone();
    let known = timeout(ANSWER, epoch(&app.etcd)).await.ok().and_then(Result::ok);
    let serves_here = told.is_some() && told == known && neighbours.etcd_serves_here().await;
    let seen = Seen {
        unsettled: is_unsettled(&neighbours.folders),
        told,
        known,
        began: matches!(*neighbours.role.borrow(), Role::Member { id: None, .. }),
        serves_here,
        follows: neighbours.grid.now().member(host).is_some(),
    };
    match answer(seen) {
        Answer::Refuse(said) => return refused(said.into()),
        Answer::Done => info!("this host follows the recovered etcd of {host} already"),
        Answer::GiveUp => neighbours.take_role(Role::Client)?,
        Answer::Follow => {
            let peer_url = peer_url(record.addr, neighbours.peer_port);
            if !neighbours.grid.follow_from(&before, &alone(host, &peer_url)) {
                let said = "who the members of etcd are has just changed; tell this host again";
                return refused(said.into());
            }
            warn!("etcd goes on with the member of {host} alone; this host follows it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Seen = Seen {
        unsettled: false,
        told: Some(2),
        known: None,
        began: true,
        serves_here: false,
        follows: true,
    };

    #[test]
    fn a_host_follows_unless_it_does_already() {
        assert_eq!(answer(TOLD), Answer::Follow);
        assert_eq!(answer(Seen { known: Some(1), serves_here: true, ..TOLD }), Answer::Follow);
        assert_eq!(answer(Seen { told: None, known: Some(2), ..TOLD }), Answer::Follow);
        let known = Seen { known: Some(2), ..TOLD };
        assert_eq!(answer(Seen { began: false, ..known }), Answer::Done, "it was added since");
        assert_eq!(answer(known), Answer::GiveUp, "it has its member of before still");
        assert_eq!(answer(Seen { known: Some(3), ..TOLD }), Answer::Done, "that was long ago");
    }

    #[test]
    fn a_host_that_is_recovered_itself_gives_nothing_up() {
        let refused = |seen| matches!(answer(seen), Answer::Refuse(_));
        for known in [None, Some(1), Some(2)] {
            assert!(refused(Seen { unsettled: true, known, ..TOLD }), "{known:?}");
        }
        // Both were recovered while neither could reach the other.
        let both = Seen { known: Some(2), ..TOLD };
        assert!(refused(Seen { serves_here: true, ..both }));
        assert!(refused(Seen { follows: false, ..both }), "its own may be slow to answer");
        // The other follows this host by now, and tells of its own once more.
        let later = Seen { known: Some(3), serves_here: true, ..TOLD };
        assert_eq!(answer(later), Answer::Done);
    }
}
