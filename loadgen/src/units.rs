//! Quantities as people write them: `10KiB`, `1KiB:70,10KiB:25`, `0.2..2.0`, `1500/s`. Wrong text is an error that
//! names what was expected; nothing panics.

use std::time::Duration;

/// The largest message size that can be asked for, in bytes.
pub const SIZE_MAX_BYTES: u64 = 256 << 20;

/// A message size and its weight in a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Size of the whole message, header included, in bytes.
    pub size_bytes: u64,
    /// Its weight among the others.
    pub weight: u32,
}

/// The sizes of messages: one, or several with weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMix {
    shares: Vec<Share>,
    /// As written, where the shares would not tell.
    name: Option<String>,
}

/// Classes of equal weight that a log-normal distribution is cut into.
const LOG_NORMAL_CLASSES: u32 = 40;

impl SizeMix {
    /// All messages of one size.
    pub fn fixed(size_bytes: u64) -> SizeMix {
        SizeMix { shares: vec![Share { size_bytes, weight: 1 }], name: None }
    }

    /// The sizes; never empty, weights never all 0.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Log-normal sizes around a median: `sigma` is the standard deviation of their natural logarithm.
    pub fn log_normal(median_bytes: u64, sigma: f64) -> SizeMix {
        let sizes = normal_classes(LOG_NORMAL_CLASSES).into_iter().map(|z| median_bytes as f64 * (sigma * z).exp());
        let share = |size: f64| Share { size_bytes: (size as u64).clamp(1, SIZE_MAX_BYTES), weight: 1 };
        let name = Some(format!("lognormal:{},{sigma}", human_bytes(median_bytes)));
        SizeMix { shares: sizes.map(share).collect(), name }
    }

    /// The mean size in bytes.
    pub fn mean_bytes(&self) -> f64 {
        let weight: f64 = self.shares.iter().map(|s| f64::from(s.weight)).sum();
        self.shares.iter().map(|s| s.size_bytes as f64 * f64::from(s.weight)).sum::<f64>() / weight
    }
}

impl std::str::FromStr for SizeMix {
    type Err = String;

    fn from_str(text: &str) -> Result<SizeMix, String> {
        if let Some(rest) = text.strip_prefix("lognormal:") {
            let (median, sigma) = rest.split_once(',').unwrap_or((rest, "1"));
            let sigma = sigma.trim().parse::<f64>().ok().filter(|sigma| (0.0..=3.0).contains(sigma));
            let sigma = sigma.ok_or("write lognormal:MEDIAN,SIGMA with a sigma of 0 to 3, as lognormal:10KiB,1.2")?;
            return Ok(SizeMix::log_normal(parse_size(median)?, sigma));
        }
        let mut shares = Vec::new();
        for part in text.split(',') {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let weight =
                weight.trim().parse::<u32>().map_err(|_| format!("`{weight}` is no weight (0..4294967295)"))?;
            shares.push(Share { size_bytes: parse_size(size)?, weight });
        }
        if shares.iter().all(|share| share.weight == 0) || shares.len() > 16 {
            return Err("a mix needs 1 to 16 sizes, at least one with a weight above 0".into());
        }
        Ok(SizeMix { shares, name: None })
    }
}

impl std::fmt::Display for SizeMix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(name) = &self.name {
            return f.write_str(name);
        }
        for (index, share) in self.shares.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", human_bytes(share.size_bytes))?;
            if self.shares.len() > 1 {
                write!(f, ":{}", share.weight)?;
            }
        }
        Ok(())
    }
}

/// The normal distribution cut into classes of equal weight: the middle of each, by summing up its density.
fn normal_classes(classes: u32) -> Vec<f64> {
    const STEP: f64 = 0.001;
    let (mut z, mut weight, mut middles) = (-6.0, 0.0, Vec::new());
    while (middles.len() as u32) < classes {
        weight += (-z * z / 2.0_f64).exp() / std::f64::consts::TAU.sqrt() * STEP;
        // The last classes may fall short by rounding: they end where the tail does.
        if weight >= (middles.len() as f64 + 0.5) / f64::from(classes) || z >= 6.0 {
            middles.push(z);
        }
        z += STEP;
    }
    middles
}

/// Parses a size: bytes, or with `K`, `KB`, `KiB`, `M`, `MB`, `MiB` behind (all binary).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let wrong = || format!("`{text}` is no size; write for example 10KiB (at most 256MiB)");
    let number = text[..digits].parse::<u64>().map_err(|_| wrong())?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        _ => return Err(wrong()),
    };
    let bytes = number.checked_mul(unit).filter(|bytes| *bytes <= SIZE_MAX_BYTES).ok_or_else(wrong)?;
    Ok(bytes)
}

/// Parses seconds (`2`, `0.5`, `2s`) or milliseconds (`250ms`).
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => match text.strip_suffix('m') {
            Some(number) => (number, 60.0),
            None => (text.strip_suffix('s').unwrap_or(text), 1.0),
        },
    };
    let value = number.trim().parse::<f64>().ok().map(|n| n * scale).filter(|n| (0.0..=1e9).contains(n));
    value.map(Duration::from_secs_f64).ok_or_else(|| format!("`{text}` is no duration; write 2s, 250ms or 1.5"))
}

/// Parses a span of durations `0.2..2.0`, or one duration for both ends.
pub fn parse_span(text: &str) -> Result<(Duration, Duration), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    // `50..200ms`: a unit on the end alone holds for both.
    let unit = to.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ' ');
    let from = if from.ends_with(|c: char| c.is_ascii_digit()) { format!("{from}{unit}") } else { from.to_string() };
    let (from, to) = (parse_duration(&from)?, parse_duration(to)?);
    if from <= to { Ok((from, to)) } else { Err(format!("`{text}` ends before it begins")) }
}

/// Parses a probability, `0.01` or `1%`.
pub fn parse_probability(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let value = number.trim().parse::<f64>().ok().map(|n| n * scale).filter(|p| (0.0..=1.0).contains(p));
    value.ok_or_else(|| format!("`{text}` is no probability; write 0.01 or 1%"))
}

/// A byte count for people, exact where it is a whole number of units.
pub fn human_bytes(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => format!("{b}B"),
    }
}

/// Nanoseconds for people: three digits and a unit.
pub fn human_ns(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_mixes() {
        assert_eq!(parse_size("10KiB"), Ok(10240));
        assert_eq!(parse_size("7"), Ok(7));
        assert!(parse_size("10XiB").is_err() && parse_size("").is_err() && parse_size("99999MiB").is_err());
        let mix: SizeMix = "1KiB:70,10KiB:25,100KiB:5".parse().unwrap();
        assert_eq!(mix.shares()[1], Share { size_bytes: 10240, weight: 25 });
        assert_eq!(mix.to_string(), "1KiB:70,10KiB:25,100KiB:5");
        assert!("1KiB:0".parse::<SizeMix>().is_err());
        let mix: SizeMix = "lognormal:10KiB,1.0".parse().unwrap();
        assert_eq!((mix.to_string().as_str(), mix.shares().len()), ("lognormal:10KiB,1", 40));
        // The mean of a log-normal distribution is its median times e^(sigma^2/2); the cut tail takes some of it.
        let ratio = mix.mean_bytes() / 10240.0;
        assert!((1.5..1.65).contains(&ratio), "{ratio}");
        let below = mix.shares().iter().filter(|share| share.size_bytes < 10240).count();
        assert_eq!(below, 20);
        assert!("lognormal:10KiB,9".parse::<SizeMix>().is_err() && "lognormal:x".parse::<SizeMix>().is_err());
    }

    #[test]
    fn durations_spans_probabilities() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_span("0.2..2.0"), Ok((Duration::from_millis(200), Duration::from_secs(2))));
        assert_eq!(parse_span("5..50ms"), Ok((Duration::from_millis(5), Duration::from_millis(50))));
        assert!(parse_span("2..1").is_err() && parse_duration("-1").is_err() && parse_duration("NaN").is_err());
        assert_eq!(parse_probability("1%"), Ok(0.01));
        assert!(parse_probability("2").is_err());
    }
}
