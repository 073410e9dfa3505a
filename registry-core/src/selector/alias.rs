//! A weighted draw in constant time.

/// One column for each entry, whatever the weights: the entry itself up to `keep`, another above. Vose, "A Linear
/// Algorithm For Generating Random Numbers With a Given Distribution", 1991.
///
/// No table at all where all weights are equal.
#[derive(Debug)]
pub(super) struct Alias {
    len: usize,
    columns: Box<[Column]>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// Of 2³².
    keep: u32,
    other: u32,
}

impl Alias {
    /// Weights that are not above 0, or not numbers, are never drawn, unless all are so.
    pub(super) fn new(weights: impl Iterator<Item = f32>) -> Self {
        let weights: Vec<f64> = weights
            .map(f64::from)
            .map(|weight| {
                if weight.is_finite() {
                    weight.max(0.0)
                } else {
                    0.0
                }
            })
            .collect();
        let len = weights.len();
        let sum: f64 = weights.iter().sum();
        if sum == 0.0 || weights.windows(2).all(|pair| pair[0] == pair[1]) {
            let columns = Box::default();
            return Self { len, columns };
        }
        let mut parts: Vec<f64> = weights
            .iter()
            .map(|weight| weight / sum * len as f64)
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..len).partition(|&i| parts[i] < 1.0);
        let mut columns: Box<[Column]> = (0..len as u32)
            .map(|own| Column {
                keep: u32::MAX,
                other: own,
            })
            .collect();
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            columns[less] = Column {
                keep: (parts[less] * 4_294_967_296.0) as u32,
                other: more as u32,
            };
            parts[more] -= 1.0 - parts[less];
            if parts[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What rounding left over: never to somebody of weight 0.
        for rest in small {
            if weights[rest] == 0.0 {
                let heaviest = (0..len).max_by(|a, b| weights[*a].total_cmp(&weights[*b]));
                columns[rest] = Column {
                    keep: 0,
                    other: heaviest.unwrap_or(rest) as u32,
                };
            }
        }
        Self { len, columns }
    }

    /// Whether all have the same chance: a draw then uses the upper half of its random number only.
    #[inline]
    pub(super) const fn is_even(&self) -> bool {
        self.columns.is_empty()
    }

    /// The position for a random number; 0 where there is none.
    #[inline]
    pub(super) fn draw(&self, random: u64) -> usize {
        let at = super::hash::below(random, self.len);
        match self.columns.get(at) {
            None => at,
            Some(column) if (random as u32) < column.keep => at,
            Some(column) => column.other as usize,
        }
    }
}
