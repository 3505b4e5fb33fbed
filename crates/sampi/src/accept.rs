//! What a host makes of an order, whoever gives it: its own last word on terms and room.

use api::{cluster::Capacity, discoverd::Term, host::Limits};

use crate::Room;

/// The highest term a host has obeyed, after an order under `given`; `None`: the order is refused, for its leader leads
/// no more.
pub fn obey(highest: Term, given: Term) -> Option<Term> {
    // A planted bug, which the simulator must find: every order is carried out.
    let ignores = cfg!(feature = "plant-ignore-term");
    if given >= highest { Some(given) } else { ignores.then_some(highest) }
}

/// Whether a host that offers `capacity` and runs jobs with `present` limits has room for one more.
///
/// The leader counts too, but an order that was given up as lost may arrive after its room was given to another job.
pub fn has_room<'a>(
    capacity: &Capacity,
    present: impl IntoIterator<Item = &'a Limits>,
    wanted: &Limits,
) -> bool {
    let mut room = Room::all(capacity);
    for limits in present {
        room.take(limits);
    }
    room.fits(wanted)
}

#[cfg(all(test, not(feature = "plant-ignore-term")))]
mod tests {
    use super::*;

    #[test]
    fn a_lower_term_is_refused_and_a_higher_one_kept() {
        let term = |epoch, revision| Term { epoch, revision };
        assert_eq!(obey(term(1, 5), term(1, 5)), Some(term(1, 5)));
        assert_eq!(obey(term(1, 5), term(1, 6)), Some(term(1, 6)));
        assert_eq!(obey(term(1, 5), term(1, 4)), None);
        assert_eq!(obey(term(1, 5), term(0, 9)), None);
        assert_eq!(obey(term(0, 9), term(1, 0)), Some(term(1, 0)));
    }

    #[test]
    fn room_is_what_the_present_jobs_leave() {
        let capacity = Capacity { memory: 10, cpu: 1000, addresses: 2 };
        let limits = |memory| Limits { memory, cpu: 100, ..Limits::default() };
        assert!(has_room(&capacity, [&limits(4)], &limits(6)));
        assert!(!has_room(&capacity, [&limits(4)], &limits(7)));
        assert!(!has_room(&capacity, [&limits(1), &limits(1)], &limits(1)), "no address");
    }
}
