//! How old an order may become of which nothing is heard.

use std::{collections::VecDeque, time::Duration};

/// An order of which nothing was heard is given up after so long: several times what a leader waits for an answer.
pub const ORDER_TIMEOUT: Duration = Duration::from_secs(60);
/// The state's moment is noted this often.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// How far a state was at which time, the oldest first. Times are those since any one beginning.
#[derive(Debug, Clone, Default)]
pub struct Moments(VecDeque<(Duration, u64)>);

impl Moments {
    /// Notes how far the state is. Answers for [`crate::Cluster::give_up_orders`] how far it was when the orders were
    /// given that are too old by now.
    pub fn note(&mut self, now: Duration, moment: u64) -> Option<u64> {
        let moments = &mut self.0;
        if moments.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= NOTE_INTERVAL) {
            moments.push_back((now, moment));
        }
        let mut found = None;
        while let Some((at, moment)) = moments.front()
            && now.saturating_sub(*at) >= ORDER_TIMEOUT
        {
            found = Some(*moment);
            moments.pop_front();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_too_old_once_their_time_has_passed_and_not_before() {
        let mut moments = Moments::default();
        let at = Duration::from_secs;
        assert_eq!(moments.note(at(0), 3), None);
        assert_eq!(moments.note(at(30), 8), None);
        assert_eq!(moments.note(at(59), 9), None);
        assert_eq!(moments.note(at(60), 9), Some(3));
        assert_eq!(moments.note(at(61), 9), None, "it is said once");
        assert_eq!(moments.note(at(200), 9), Some(9));
    }
}
