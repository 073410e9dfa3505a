//! Command lines of the form `--name value`.

use std::collections::BTreeMap;
use std::process;
use std::str::FromStr;

/// The options of this program's command line.
#[derive(Debug)]
#[must_use = "finish() refuses the options that were not read"]
pub struct Args {
    values: BTreeMap<String, String>,
}

impl Args {
    /// Reads the command line. Prints `help` and ends the program when `--help` is asked for, and ends it with
    /// code 2 when the line cannot be read.
    pub fn parse(help: &str) -> Self {
        let mut values = BTreeMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--help" || word == "-h" {
                print!("{help}");
                process::exit(0);
            }
            let Some(name) = word.strip_prefix("--") else {
                refuse(&format!("{word:?} is not an option"));
            };
            let Some(value) = words.next() else {
                refuse(&format!("--{name} needs a value"));
            };
            if values.insert(name.to_owned(), value).is_some() {
                refuse(&format!("--{name} is given twice"));
            }
        }
        Self { values }
    }

    /// The value of an option, or its default. Ends the program with code 2 when the value cannot be read.
    pub fn take<T: FromStr>(&mut self, name: &str, default: T) -> T {
        match self.values.remove(name) {
            None => default,
            Some(value) => value
                .parse()
                .unwrap_or_else(|_| refuse(&format!("--{name} {value:?} cannot be read"))),
        }
    }

    /// Ends the program with code 2 when an option was given that no [`take`](Self::take) asked for.
    pub fn finish(self) {
        if let Some(name) = self.values.keys().next() {
            refuse(&format!("there is no option --{name}"));
        }
    }
}

fn refuse(why: &str) -> ! {
    eprintln!("{why}; --help lists the options");
    process::exit(2)
}
