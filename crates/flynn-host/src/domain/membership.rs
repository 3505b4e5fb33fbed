//! Who of the hosts runs a member of etcd: the first 1, 3 or 5, replaced when they stay away.
//!
//! One step at a time, and none that could lose the quorum: a lost member goes, for etcd adds nobody while one is away; the
//! one in its place comes as a learner and gets its vote when it has everything.

use std::time::Duration;

/// A member of etcd, as the leading host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// etcd's id of it.
    pub(crate) id: u64,
    /// Its host, unless that was removed from the cluster.
    pub(crate) host: Option<String>,
    /// Whether it has no vote yet.
    pub(crate) learner: bool,
    /// How long its host has been away; zero while it is there.
    pub(crate) away: Duration,
}

/// A host that could have a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its id.
    pub(crate) id: String,
    /// Whether it is there and may be given things to do.
    pub(crate) ready: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A host becomes a learner.
    Add(String),
    /// A learner gets its vote.
    Promote(u64),
    /// A member goes.
    Remove(u64),
}

/// How many members a cluster of so many hosts has.
pub(crate) fn size(hosts: usize) -> usize {
    match hosts {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// The next step, if there is one. `hosts` are those of the cluster, the one that was first first; `patience` is how long
/// a member may be away before it is replaced.
pub(crate) fn next(members: &[Member], hosts: &[Candidate], patience: Duration) -> Option<Step> {
    let here = |member: &&Member| member.host.is_some() && member.away.is_zero();
    let voters: Vec<&Member> = members.iter().filter(|member| !member.learner).collect();
    let healthy = voters.iter().copied().filter(|member| here(member)).count();
    if healthy < quorum(voters.len()) {
        // etcd would not do it, or it must not: whoever is away may come back.
        return None;
    }
    let lost = |member: &&Member| member.host.is_none() || member.away >= patience;
    let may_go = |member: &Member| {
        member.learner
            || healthy - usize::from(here(&member)) >= quorum(voters.len().saturating_sub(1)).max(1)
    };
    if let Some(learner) = members.iter().find(|member| member.learner) {
        return match learner {
            learner if here(&learner) => Some(Step::Promote(learner.id)),
            learner if lost(&learner) => Some(Step::Remove(learner.id)),
            _ => None,
        };
    }
    let wanted = size(hosts.len());
    let is_member = |host: &&Candidate| members.iter().any(|m| m.host.as_ref() == Some(&host.id));
    let mut free = hosts.iter().filter(|host| host.ready && !is_member(host));
    let removed = voters.iter().find(|member| member.host.is_none());
    // A lost one that nobody could replace does no harm, and may come back.
    let replaceable = free.clone().next().is_some() || voters.len() > wanted;
    let lost =
        removed.or_else(|| voters.iter().find(|member| lost(member)).filter(|_| replaceable));
    if let Some(lost) = lost {
        // First, for etcd adds nobody while one of its members is away.
        return may_go(lost).then_some(Step::Remove(lost.id));
    }
    if voters.len() < wanted && healthy == voters.len() {
        return free.next().map(|host| Step::Add(host.id.clone()));
    }
    let order = |member: &&&Member| hosts.iter().position(|h| Some(&h.id) == member.host.as_ref());
    let surplus = voters.iter().max_by_key(order).filter(|_| voters.len() > wanted)?;
    may_go(surplus).then_some(Step::Remove(surplus.id))
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(600);

    fn candidates(ids: &[&str]) -> Vec<Candidate> {
        ids.iter().map(|id| Candidate { id: (*id).into(), ready: true }).collect()
    }

    fn voter(id: u64, host: &str, away: u64) -> Member {
        Member { id, host: Some(host.into()), learner: false, away: Duration::from_secs(away) }
    }

    #[test]
    fn two_hosts_have_one_member_and_three_have_three() {
        let one = [voter(1, "a", 0)];
        assert_eq!(next(&one, &candidates(&["a", "b"]), PATIENCE), None);
        let hosts = candidates(&["a", "b", "c"]);
        assert_eq!(next(&one, &hosts, PATIENCE), Some(Step::Add("b".into())));
        let learning = [voter(1, "a", 0), Member { learner: true, ..voter(2, "b", 0) }];
        assert_eq!(next(&learning, &hosts, PATIENCE), Some(Step::Promote(2)));
        let two = [voter(1, "a", 0), voter(2, "b", 0)];
        assert_eq!(next(&two, &hosts, PATIENCE), Some(Step::Add("c".into())));
    }

    #[test]
    fn one_that_stays_away_is_replaced_if_there_is_another() {
        let hosts = candidates(&["a", "b", "c", "d"]);
        let members = |away| vec![voter(1, "a", 0), voter(2, "b", 0), voter(3, "c", away)];
        assert_eq!(next(&members(599), &hosts, PATIENCE), None);
        assert_eq!(next(&members(600), &hosts, PATIENCE), Some(Step::Remove(3)));
        assert_eq!(next(&members(600), &candidates(&["a", "b", "c"]), PATIENCE), None);
        let two = [voter(1, "a", 0), voter(2, "b", 0)];
        assert_eq!(next(&two, &hosts, PATIENCE), Some(Step::Add("c".into())));
        // etcd would refuse to add one now.
        let two = [voter(1, "a", 0), voter(2, "b", 0), voter(3, "c", 10)];
        assert_eq!(next(&two, &candidates(&["a", "b", "c", "d", "e"]), PATIENCE), None);
    }

    #[test]
    fn without_a_quorum_nothing_is_changed() {
        let members = [voter(1, "a", 0), voter(2, "b", 900), voter(3, "c", 900)];
        assert_eq!(next(&members, &candidates(&["a", "b", "c", "d"]), PATIENCE), None);
    }

    fn apply(members: &mut Vec<Member>, step: Step, fresh: u64) {
        match step {
            Step::Add(host) => {
                members.push(Member { learner: true, ..voter(fresh, &host, 0) });
            }
            Step::Promote(id) => {
                members.iter_mut().filter(|m| m.id == id).for_each(|m| m.learner = false);
            }
            Step::Remove(id) => members.retain(|member| member.id != id),
        }
    }

    proptest! {
        #[test]
        fn no_step_loses_the_quorum_and_all_present_end_at_the_right_size(
            ever in prop::collection::vec((any::<bool>(), 0u64..1200, any::<bool>()), 1..9),
            voting in 1usize..8,
        ) {
            let hosts: Vec<Candidate> = ever
                .iter()
                .enumerate()
                .filter(|(_, (_, _, kept))| *kept)
                .map(|(n, (here, ..))| Candidate { id: n.to_string(), ready: *here })
                .collect();
            let mut members: Vec<Member> = ever
                .iter()
                .enumerate()
                .take(voting)
                .map(|(n, (here, away, kept))| Member {
                    id: n as u64,
                    host: kept.then(|| n.to_string()),
                    learner: false,
                    away: Duration::from_secs(if *here { 0 } else { *away }),
                })
                .collect();
            let healthy = |members: &[Member]| {
                let voters = members.iter().filter(|m| !m.learner);
                let count = voters.clone().count();
                let here = voters.filter(|m| m.host.is_some() && m.away.is_zero()).count();
                here >= quorum(count) && here > 0
            };
            let quorate = healthy(&members);
            let mut steps = 0;
            while let Some(step) = next(&members, &hosts, PATIENCE) {
                prop_assert!(quorate, "a step without a quorum");
                apply(&mut members, step, 100 + steps);
                prop_assert!(healthy(&members), "{members:?}");
                steps += 1;
                prop_assert!(steps < 40, "it never ends: {members:?}");
            }
            let all_here = ever.iter().all(|(here, _, kept)| *here && *kept);
            if all_here && quorate {
                prop_assert_eq!(members.len(), size(hosts.len()));
            }
        }
    }
}
