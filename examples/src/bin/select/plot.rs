//! What came of it, as a picture: latency by percentile, both in logarithmic scales.

use std::fmt::Write;

use crate::scenario::Scenario;
use crate::table::millis;
use crate::world::Run;

const WIDTH: f64 = 660.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
/// Milliseconds at the bottom and the top.
const LEAST: f64 = 5.0;
const MOST: f64 = 3000.0;
/// Colours that also those who see fewer of them can tell apart (Okabe, Ito).
const COLOURS: [&str; 8] = [
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#999999",
];

/// One panel for each scenario, two in a row.
pub(crate) fn svg(results: &[(Scenario, Vec<Run>)]) -> String {
    let rows = results.len().div_ceil(2) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2.0 * WIDTH,
        rows * HEIGHT
    );
    for (i, (scenario, runs)) in results.iter().enumerate() {
        let (x, y) = ((i % 2) as f64 * WIDTH, (i / 2) as f64 * HEIGHT);
        // Writing to a String cannot fail.
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        panel(&mut svg, scenario, runs);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, scenario: &Scenario, runs: &[Run]) {
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>",
        scenario.title
    );
    for millis in [10.0, 30.0, 100.0, 300.0, 1000.0] {
        let y = height(millis);
        let end = WIDTH - RIGHT;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{millis} ms</text>",
            LEFT - 5.0,
            y + 4.0
        );
    }
    for (part, name) in [
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
    ] {
        let x = across(part);
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            bottom + 16.0
        );
    }
    for (i, (run, colour)) in runs.iter().zip(COLOURS).enumerate() {
        let points: String = (0..=60)
            .map(|step| 1.0 - 0.5 * 10_f64.powf(-f64::from(step) / 60.0 * 2.7))
            .map(|part| {
                let y = height(millis(run.percentile(part)));
                format!("{:.1},{y:.1} ", across(part))
            })
            .collect();
        let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 16.0 * i as f64);
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <line x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            x + 14.0,
            x + 18.0,
            y + 4.0,
            run.selector
        );
    }
}

/// A percentile by its nines.
fn across(part: f64) -> f64 {
    let nines = -(2.0 * (1.0 - part)).log10() / 2.7;
    LEFT + nines * (WIDTH - LEFT - RIGHT)
}

fn height(millis: f64) -> f64 {
    let part = (millis.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
}
