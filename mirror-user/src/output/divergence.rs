//! How differences of answers are shown.

use std::fmt::Write as _;

use mirror_control::divergence::{Rate, Standing};

use super::{BAD, DOUBTFUL, FAINT, GOOD, Show, span, styled};
use crate::api::divergence::{DivergenceAnswer, Example, PrefixAnswer};

/// What is made of a prefix's differences of digests.
const fn said(standing: Standing) -> &'static str {
    match standing {
        Standing::Counts => "a digest counts",
        Standing::Noisy => "digests noisy: the primary differs as often from itself",
        Standing::Named => "digests noisy, by policy",
        Standing::Learning => "digests: not known yet what the primary itself does",
    }
}

fn percent(rate: &Rate) -> String {
    format!("{:.3} % ({:.3} to {:.3})", rate.share * 100.0, rate.low * 100.0, rate.high * 100.0)
}

impl Show for DivergenceAnswer {
    fn lines(&self) -> String {
        let mut text = String::new();
        let within = self.rate.high < self.bound;
        let style = match (within, self.rate.low > self.bound) {
            (true, _) => GOOD,
            (false, true) => BAD,
            (false, false) => DOUBTFUL,
        };
        let _ = writeln!(
            text,
            "{:<10} {} differ, bound {:.3} %",
            self.name,
            styled(style, percent(&self.rate)),
            self.bound * 100.0
        );
        let _ = writeln!(
            text,
            "  {} turns compared: {} equal, status differs {}, length {}, digest {}, bodies unknown {}",
            self.compared, self.equal, self.status, self.length, self.digest, self.unknown
        );
        let _ = writeln!(
            text,
            "  of the digests {} count, {} are noise, {} wait to be learned   records lost {}",
            self.digest_counted, self.digest_noise, self.digest_learning, self.records_lost
        );
        for prefix in &self.prefixes {
            show(&mut text, prefix);
        }
        if !self.captures && !self.prefixes.is_empty() {
            let _ = writeln!(
                text,
                "  {}",
                styled(FAINT, "names instead of numbers: [divergence] capture = true")
            );
        }
        text
    }
}

fn show(text: &mut String, prefix: &PrefixAnswer) {
    let differs = prefix.status + prefix.length + prefix.digest > 0;
    let _ = writeln!(
        text,
        "  {:<32} {}   turns {}   status {}   length {}   digest {}   unknown {}",
        prefix.prefix,
        styled(if prefix.rate.low > 0.0 { BAD } else { FAINT }, percent(&prefix.rate)),
        prefix.turns,
        prefix.status,
        prefix.length,
        prefix.digest,
        prefix.unknown
    );
    if !differs {
        return;
    }
    let why = format!(
        "{} ({} of {} comparable answers of its own changed)",
        said(prefix.standing),
        prefix.primary_changed,
        prefix.primary_repeats
    );
    let _ = writeln!(text, "    {}", styled(FAINT, why));
    for example in prefix.examples.iter().rev() {
        let _ = writeln!(text, "    {}", styled(FAINT, line(example)));
    }
}

fn line(example: &Example) -> String {
    let length = |length: Option<u32>| length.map_or("?".into(), |bytes: u32| bytes.to_string());
    let digests =
        example.digests.map_or(String::new(), |[one, other]| format!("   digest {one:04x} / {other:04x}"));
    format!(
        "{} ago {} {}   status {} / {}   bytes {} / {}{digests}   {:.2} / {:.2} ms",
        span(example.age),
        example.client,
        if example.writes { "write" } else { "read" },
        example.statuses[0],
        example.statuses[1],
        length(example.lengths[0]),
        length(example.lengths[1]),
        f64::from(example.us[0]) / 1e3,
        f64::from(example.us[1]) / 1e3,
    )
}
