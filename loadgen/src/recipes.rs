//! Ready set-ups of well-known relays, for comparisons: shell scripts that are part of this program.
//!
//! A recipe is written into the run's own directory and started from there; it keeps everything of its relay in that
//! directory and stays its first process. Installing is a step of its own and never happens unasked.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

const COMMON: &str = include_str!("../recipes/common.sh");
const FILE: &str = "recipe.sh";

/// A ready set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The relay's name.
    pub name: &'static str,
    text: &'static str,
}

/// All of them.
pub const RECIPES: &[Recipe] = &[
    Recipe { name: "postfix", text: include_str!("../recipes/postfix.sh") },
    Recipe { name: "exim", text: include_str!("../recipes/exim.sh") },
    Recipe { name: "opensmtpd", text: include_str!("../recipes/opensmtpd.sh") },
    Recipe { name: "haraka", text: include_str!("../recipes/haraka.sh") },
];

/// The recipe of that name.
pub fn find(name: &str) -> Option<Recipe> {
    RECIPES.iter().copied().find(|recipe| recipe.name == name)
}

impl Recipe {
    /// The whole script.
    pub fn script(&self) -> String {
        format!("{COMMON}\n{}", self.text)
    }

    /// Writes the script into a run's directory; returns the relay's command, to be filled in when it is started.
    pub fn prepare(&self, dir: &Path) -> io::Result<Vec<String>> {
        std::fs::write(dir.join(FILE), self.script())?;
        let words = ["/bin/sh", "{dir}/recipe.sh", "run", "{listen_port}", "{sink_port}", "{dir}"];
        Ok(words.map(String::from).to_vec())
    }

    /// Gets the relay's software; what it prints goes to standard error.
    pub fn install(&self) -> io::Result<()> {
        let status = self.ask("install").stdout(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("cannot install {}: {status}", self.name))) }
    }

    /// Its version; an error with what to do if it is not installed.
    pub fn version(&self) -> io::Result<String> {
        let output = self.ask("version").output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_string());
        }
        Err(io::Error::other(format!("{}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim())))
    }

    fn ask(&self, verb: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &self.script(), FILE, verb]).stdin(Stdio::null());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_sound_shell() {
        for recipe in RECIPES {
            assert_eq!(find(recipe.name), Some(*recipe));
            let check = Command::new("/bin/sh").args(["-n", "-c", &recipe.script()]).status().unwrap();
            assert!(check.success(), "{}", recipe.name);
            for verb in ["install)", "version)", "run)", "exec "] {
                assert!(recipe.text.contains(verb), "{} has no {verb}", recipe.name);
            }
        }
        assert_eq!(find("sendmail"), None);
    }

    #[test]
    fn what_is_not_installed_says_so() {
        let script = find("haraka").unwrap().script();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, FILE, "version"]).env("LOADGEN_RECIPES", "/no/such/place");
        let output = command.output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("--install"));
    }
}
