//! The tables.

use std::fmt;

use crate::rebuild::Rebuild;
use crate::subject::Measured;

/// Which of ours is like which of theirs, and how many times faster ours should be.
const RIVALS: [(&str, &str, f64); 7] = [
    ("round robin", "pingora round robin", 8.0),
    ("weighted round robin", "pingora weighted round robin", 8.0),
    ("ring hash", "pingora ketama", 1.0),
    ("random", "tower P2C, constant load", 1.0),
    ("power of two", "tower P2C, pending requests", 7.0),
    ("peak EWMA, reported", "tower P2C, peak EWMA", 3.0),
    ("weighted random", "volo weighted random", 1.0),
];
const BARE: &str = "bare arc-swap load";

#[derive(Default)]
pub struct Report {
    rows: Vec<(usize, Measured)>,
    pub rebuilds: Vec<Rebuild>,
}

impl Report {
    pub fn add(&mut self, size: usize, measured: Measured) {
        self.rows.push((size, measured));
    }

    fn find(&self, name: &str, size: usize) -> Option<&Measured> {
        let mut rows = self.rows.iter();
        rows.find(|(n, row)| *n == size && row.name == name)
            .map(|(_, row)| row)
    }

    fn names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (_, row) in &self.rows {
            if !names.contains(&row.name) {
                names.push(row.name);
            }
        }
        names
    }

    fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<_> = self.rows.iter().map(|(size, _)| *size).collect();
        sizes.dedup();
        sizes
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# What a pick costs\n")?;
        writeln!(
            f,
            "Medians in nanoseconds of samples taken in turns, in one run of `cargo run --release --manifest-path \
             conformance/bench/Cargo.toml`. A pick is chosen and dropped, or reported where that is said; pingora returns a \
             clone of its backend, tower calls a service that does nothing, volo returns an address. Keys differ with every \
             pick. The machine had {} hardware threads.\n",
            std::thread::available_parallelism().map_or(0, usize::from)
        )?;
        let sizes = self.sizes();
        writeln!(
            f,
            "| | {} | least, n = 10 | two threads, n = 10 | n = 1,000 | gain, n = 10 | n = 1,000 |",
            sizes
                .iter()
                .map(|n| format!("n = {n}"))
                .collect::<Vec<_>>()
                .join(" | ")
        )?;
        writeln!(f, "| --- |{}", " ---: |".repeat(sizes.len() + 5))?;
        for name in self.names() {
            write!(f, "| {name} |")?;
            for size in &sizes {
                match self.find(name, *size) {
                    Some(row) => write!(f, " {:.1} |", row.one_thread)?,
                    None => write!(f, " |")?,
                }
            }
            let least = self.find(name, 10).map_or(f64::NAN, |row| row.least);
            write!(f, " {least:.1} |")?;
            let at = [10, 1_000].map(|size| self.find(name, size));
            for row in at {
                write!(f, " {:.1} |", row.map_or(f64::NAN, |row| row.two_threads))?;
            }
            for row in at {
                let gain = row.map_or(f64::NAN, |row| 2.0 * row.one_thread / row.two_threads);
                write!(f, " {gain:.2} |")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\nTwo threads: nanoseconds of each while both pick. Gain: picks of both together over those of one alone. Each \
             thread has a tower balancer of its own, since one cannot be shared.\n"
        )?;
        writeln!(
            f,
            "## Beside the peers\n\nHow many times ours is faster; in the last column, how many bare loads ours costs.\n"
        )?;
        writeln!(
            f,
            "| Ours | Theirs | wanted | {} | bare loads, n = 10 |",
            sizes
                .iter()
                .map(|n| format!("n = {n}"))
                .collect::<Vec<_>>()
                .join(" | ")
        )?;
        writeln!(f, "| --- | --- |{}", " ---: |".repeat(sizes.len() + 2))?;
        for (ours, theirs, wanted) in RIVALS {
            write!(f, "| {ours} | {theirs} | {wanted} |")?;
            for size in &sizes {
                let (ours, theirs) = (self.find(ours, *size), self.find(theirs, *size));
                match ours.zip(theirs) {
                    Some((ours, theirs)) => {
                        write!(f, " {:.1} |", theirs.one_thread / ours.one_thread)?;
                    }
                    None => write!(f, " |")?,
                }
            }
            let loads = self.find(ours, 10).zip(self.find(BARE, 10));
            let loads = loads.map_or(f64::NAN, |(ours, bare)| ours.one_thread / bare.one_thread);
            writeln!(f, " {loads:.1} |")?;
        }
        writeln!(
            f,
            "\n## A change of one among 10,000 instances\n\nFrom the wake of the balancer's task to what picks read; and the pick that 999 of \
             1,000 are not slower than, the clock's own cost included, without changes and with one every 10 ms.\n"
        )?;
        writeln!(
            f,
            "| | change | p99.9 without | p99.9 with |\n| --- | ---: | ---: | ---: |"
        )?;
        for row in &self.rebuilds {
            let Rebuild {
                name,
                median,
                quiet,
                busy,
            } = row;
            writeln!(f, "| {name} | {median:.2?} | {quiet:.0?} | {busy:.0?} |")?;
        }
        Ok(())
    }
}
