use proptest::prelude::*;

use super::*;

const DAY: i64 = 24 * 3600;
const YEAR: i64 = 365 * DAY;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn problem() -> (CertificateProblem, String) {
    (CertificateProblem::Refused, "no".into())
}

fn held(not_before: i64, lifetime: i64, issued_at: i64) -> Held {
    let not_after = at(not_before + lifetime);
    Held { not_before: at(not_before), not_after, issued_at: at(issued_at) }
}

fn wanted() -> NameState {
    NameState { is_wanted: true, ..NameState::default() }
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_lifetime_is_left() {
    let state = |now| {
        let state = NameState { held: Some(held(0, 90 * DAY, 0)), ..wanted() };
        step(&state, 0.0, at(now))
    };
    assert_eq!(state(59 * DAY), None);
    assert_eq!(state(60 * DAY), Some(Step::Order));
    assert_eq!(state(200 * DAY), Some(Step::Order), "also one that has ended");
}

#[test]
fn pauses_double_up_to_a_day_and_an_authority_may_ask_for_longer() {
    let mut attempts: Option<Attempts> = None;
    let mut pauses = Vec::new();
    for _ in 0..13 {
        let next = failed(attempts.as_ref(), problem(), None, 0.0, at(0));
        pauses.push(seconds(next.last, next.next));
        attempts = Some(next);
    }
    assert_eq!(pauses[..4], [60, 120, 240, 480]);
    assert_eq!(pauses[11..], [DAY, DAY]);
    let asked = failed(None, problem(), Some(Duration::from_secs(7200)), 0.0, at(0));
    assert_eq!(seconds(asked.last, asked.next), 7200);
}

#[test]
fn what_ends_first_comes_first_after_what_has_none() {
    let ending = |not_after| NameState { held: Some(held(0, not_after, 0)), ..wanted() };
    let names = [
        ("late".to_owned(), ending(90 * DAY)),
        ("none".to_owned(), wanted()),
        ("soon".to_owned(), ending(80 * DAY)),
        ("under-way".to_owned(), NameState { is_ordered: true, ..wanted() }),
        ("gone".to_owned(), NameState { is_wanted: false, is_ordered: true, ..wanted() }),
        ("busy".to_owned(), wanted()),
    ];
    let busy = ["busy".to_owned()].into();
    let steps = |room, left| steps(&names.clone().into(), &busy, at(79 * DAY), room, left);
    let order: Vec<_> = steps(9, 9).into_iter().map(|(name, _)| name).collect();
    assert_eq!(order, ["gone", "under-way", "none", "soon", "late"]);
    assert_eq!(steps(3, 9).len(), 3);
    let affordable: Vec<_> = steps(9, 1).into_iter().map(|(name, _)| name).collect();
    assert_eq!(affordable, ["gone", "under-way", "none"]);
}

#[test]
fn no_more_than_the_limit_is_ordered_in_an_hour_and_what_another_clock_wrote_does_not_block() {
    let mut spent = Spent::default();
    for second in 0..ORDERS_PER_HOUR as i64 {
        spent = spent.with(at(second)).unwrap();
    }
    assert_eq!(spent.with(at(HOUR - 1)), None);
    assert_eq!(spent.left(at(HOUR)), 1);
    assert_eq!(spent.left(at(YEAR)), ORDERS_PER_HOUR);
    assert_eq!(spent.left(at(-YEAR)), ORDERS_PER_HOUR);
}

#[test]
fn what_no_route_needs_is_kept_until_it_ends_and_a_failure_until_its_pause_is_over() {
    let state = NameState { held: Some(held(0, 90 * DAY, 0)), ..NameState::default() };
    assert_eq!(step(&state, 0.0, at(80 * DAY)), None);
    assert_eq!(step(&state, 0.0, at(91 * DAY)), Some(Step::Forget));
    let attempts = Some(failed(None, problem(), None, 0.0, at(0)));
    let state = NameState { attempts, ..NameState::default() };
    assert_eq!(step(&state, 0.0, at(59)), None);
    assert_eq!(step(&state, 0.0, at(60)), Some(Step::Forget));
}

/// A year and a half of one name, an authority that answers at once (or never), and a clock that is off and jumps.
struct World {
    state: NameState,
    orders: i64,
    /// Hours in which the certificate had ended.
    without: i64,
}

fn live(lifetime: i64, offsets: &[i64], answers: bool, jitter: f64) -> World {
    let mut world = World { state: wanted(), orders: 0, without: 0 };
    let hours = YEAR * 3 / 2 / HOUR;
    for hour in 0..hours {
        let real = 100 * YEAR / 2 + hour * HOUR;
        let era = usize::try_from(hour * offsets.len() as i64 / hours).unwrap();
        let now = at(real + offsets[era]);
        if step(&world.state, jitter, now) == Some(Step::Order) {
            world.orders += 1;
            if answers {
                // Backdated by an hour, as authorities do.
                let held = held(real - HOUR, lifetime, now.as_second());
                world.state = NameState { held: Some(held), ..wanted() };
            } else {
                let before = world.state.attempts.take();
                world.state.attempts = Some(failed(before.as_ref(), problem(), None, jitter, now));
            }
        }
        assert_ne!(step(&world.state, jitter, now), Some(Step::Forget), "it is needed");
        let is_valid = world.state.held.is_some_and(|held| at(real) < held.not_after);
        world.without += i64::from(!is_valid);
    }
    world
}

proptest! {
    #[test]
    fn a_clock_that_is_off_neither_storms_the_authority_nor_lets_a_certificate_end(
        lifetime in 6 * DAY..100 * DAY,
        offsets in prop::collection::vec(-YEAR..=YEAR, 1..6),
        jitter in 0.0..1.0,
    ) {
        let world = live(lifetime, &offsets, true, jitter);
        let most = YEAR * 3 / 2 / (lifetime / 3) + 1 + offsets.len() as i64;
        prop_assert!(world.orders <= most, "{} orders, {most} at most", world.orders);
        if offsets.len() == 1 {
            prop_assert_eq!(world.without, 0);
        }
    }

    #[test]
    fn an_authority_that_refuses_is_asked_less_and_less(
        offsets in prop::collection::vec(-YEAR..=YEAR, 1..6),
    ) {
        let world = live(90 * DAY, &offsets, false, 0.0);
        // A day apart in the end, some in the first day, and one for each time that the clock is set.
        prop_assert!(world.orders <= 548 + 12 + offsets.len() as i64, "{}", world.orders);
    }

    #[test]
    fn nothing_is_done_twice_and_nothing_beyond_its_bounds(
        states in prop::collection::btree_map("[a-z]{1,2}", any_state(), 0..40),
        busy in prop::collection::btree_set("[a-z]{1,2}", 0..5),
        room in 0usize..10,
        left in 0usize..10,
        now in -YEAR..YEAR,
    ) {
        let steps = steps(&states, &busy, at(now), room, left);
        prop_assert!(steps.len() <= room);
        prop_assert!(steps.iter().filter(|(_, step)| *step == Step::Order).count() <= left);
        let names: BTreeSet<_> = steps.iter().map(|(name, _)| name.clone()).collect();
        prop_assert_eq!(names.len(), steps.len());
        prop_assert!(names.is_disjoint(&busy));
        for (name, step) in &steps {
            prop_assert!(*step != Step::Forget || !states[name].is_wanted);
        }
    }
}

fn any_state() -> impl Strategy<Value = NameState> {
    let held = (-YEAR..YEAR, 1..200 * DAY, -YEAR..YEAR);
    let held = held.prop_map(|(begin, lifetime, issued)| held_of(begin, lifetime, issued));
    let attempts = (0u32..40, -YEAR..YEAR).prop_map(|(count, last)| {
        let before = Attempts { count, ..failed(None, problem(), None, 0.0, at(last)) };
        failed(Some(&before), problem(), None, 0.5, at(last))
    });
    let parts = (any::<bool>(), prop::option::of(held), prop::option::of(attempts), any::<bool>());
    parts.prop_map(|(is_wanted, held, attempts, is_ordered)| NameState {
        is_wanted,
        held,
        attempts,
        is_ordered,
    })
}

fn held_of(begin: i64, lifetime: i64, issued: i64) -> Held {
    held(begin, lifetime, issued)
}
