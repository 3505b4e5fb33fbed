//! The one line each figure is printed as.

use std::fmt;

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What was measured, and what it is measured by.
#[derive(Debug, Clone)]
pub(crate) struct Figure<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) better: Better,
    pub(crate) ours: f64,
    /// Who, and its figure; see [`GOAL`].
    pub(crate) rival: (&'a str, f64),
}

/// The rival of a figure that has none in the same run.
pub(crate) const GOAL: &str = "goal";

impl Figure<'_> {
    /// More is better, and 1 is the rival.
    fn ratio(&self) -> f64 {
        match self.better {
            Better::Higher => self.ours / self.rival.1,
            Better::Lower => self.rival.1 / self.ours,
        }
    }

    #[expect(clippy::print_stdout, reason = "what it is for")]
    pub(crate) fn print(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Figure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, ours, rival: (who, rival), .. } = self;
        let (ours, rival, ratio) = (Short(*ours), Short(*rival), Short(self.ratio()));
        write!(f, "BENCH {name} ours={ours}{unit} rival={who}:{rival}{unit} ratio={ratio}")
    }
}

/// Three digits, or all before the point.
pub(crate) struct Short(pub(crate) f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            x if x >= 100.0 => 0,
            x if x >= 10.0 => 1,
            x if x >= 1.0 || x == 0.0 => 2,
            _ => 3,
        };
        write!(f, "{:.digits$}", self.0)
    }
}

/// The value below which a share of all are; sorts them.
///
/// # Panics
/// Without values.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len() - 1;
    values[(last as f64 * share).round() as usize]
}

/// The middle one; sorts them.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_better_and_one_is_the_rival() {
        let figure = |better, ours| {
            Figure { name: "x", unit: "ms", better, ours, rival: (GOAL, 50.0) }.to_string()
        };
        let line = "BENCH x ours=100ms rival=goal:50.0ms ratio=";
        assert_eq!(figure(Better::Higher, 100.0), format!("{line}2.00"));
        assert_eq!(figure(Better::Lower, 100.0), format!("{line}0.500"));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.99), 99.0);
        assert_eq!(median(&mut values), 50.0);
    }
}
