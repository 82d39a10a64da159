//! A scenario in a file: the options of `loadgen run` as keys of TOML, and what is done to the relay when.
//!
//! ```toml
//! relay = "ringpost run --set listen.relay={listen} --set route.default={sink} --set queue.dir={dir}/q"
//! sessions = 50
//! duration = "20s"
//! sink_tls = "starttls"
//!
//! [[event]]
//! at = "5s"
//! do = "kill"
//! down = "1s"
//! ```
//!
//! What stands on the command line as well holds there. Wrong files are errors that name what is wrong.

use std::ffi::OsString;
use std::path::Path;

use loadgen::run::events::{EVENTS_MAX, Event, EventText};
use toml::{Table, Value};

const OPTION: &str = "--scenario";

fn read(path: &Path) -> Result<Table, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    text.parse().map_err(|error| named(&error))
}

/// The events of a file.
pub(super) fn events(path: &Path) -> Result<Vec<Event>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let Some(value) = read(path)?.remove("event") else { return Ok(Vec::new()) };
    let texts: Vec<EventText> = value.try_into().map_err(|error| named(&error))?;
    if texts.len() > EVENTS_MAX {
        return Err(named(&format!("at most {EVENTS_MAX} events")));
    }
    texts.iter().map(|text| text.event().map_err(|error| named(&error))).collect()
}

/// Puts a scenario's options before those of the command line, where later ones hold.
pub(super) fn expanded(words: Vec<OsString>) -> Result<Vec<OsString>, String> {
    if words.get(1).is_none_or(|word| word != "run") {
        return Ok(words);
    }
    let place = words.iter().position(|word| word.to_str().is_some_and(|word| word.starts_with(OPTION)));
    let path = place.and_then(|place| match words[place].to_str()?.strip_prefix(OPTION)? {
        "" => words.get(place + 1).cloned(),
        rest => rest.strip_prefix('=').map(OsString::from),
    });
    let Some(path) = path else { return Ok(words) };
    let mut all = words[..2].to_vec();
    for (key, value) in read(Path::new(&path))? {
        let option = format!("--{}", key.replace('_', "-"));
        let values = match value {
            _ if key == "event" => continue,
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            match value {
                Value::Boolean(false) => {}
                Value::Boolean(true) => all.push(option.clone().into()),
                // One word, so that a value may begin with a dash.
                Value::String(text) => all.push(format!("{option}={text}").into()),
                Value::Integer(number) => all.push(format!("{option}={number}").into()),
                Value::Float(number) => all.push(format!("{option}={number}").into()),
                _ => return Err(format!("{}: `{key}` is no value of an option", Path::new(&path).display())),
            }
        }
    }
    all.extend_from_slice(&words[2..]);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_options_before_those_given() {
        let path = std::env::temp_dir().join(format!("loadgen-scenario-{}.toml", std::process::id()));
        std::fs::write(
            &path,
            "relay = \"a 'b c'\"\nsessions = 5\nprogress = true\nno_pipelining = false\nsource = [\"127.0.0.1\", \"127.0.0.2\"]\n\
             [[event]]\nat = \"1s\"\ndo = \"kill\"\n",
        )
        .unwrap();
        let given: Vec<OsString> =
            ["loadgen", "run", "-n", "9", "--scenario", path.to_str().unwrap()].map(OsString::from).to_vec();
        let words = expanded(given.clone()).unwrap();
        let mut shown: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        shown[2..7].sort_unstable();
        assert_eq!(shown[..2], ["loadgen", "run"]);
        let options = ["--progress", "--relay=a 'b c'", "--sessions=5", "--source=127.0.0.1", "--source=127.0.0.2"];
        assert_eq!(shown[2..7], options);
        assert_eq!(words[7..], given[2..]);
        assert_eq!(events(&path).unwrap().len(), 1);
        std::fs::write(&path, "[[event]]\nat = \"1s\"\ndo = \"jump\"\n").unwrap();
        assert!(events(&path).unwrap_err().contains("jump"));
        std::fs::write(&path, "[a]\nb = 1\n").unwrap();
        assert!(expanded(given).unwrap_err().contains("`a`"));
        std::fs::remove_file(&path).unwrap();
        let plain = ["loadgen", "send", "x"].map(OsString::from).to_vec();
        assert_eq!(expanded(plain.clone()).unwrap(), plain);
    }
}
