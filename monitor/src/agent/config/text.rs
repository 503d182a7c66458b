//! The configuration as a file that people edit: every key with what it means, and as a comment
//! where it has its default, so that a later version's default is not held up by it.
//!
//! Keys, their order and their meaning come from the table in `docs/agent.md`, which is the one
//! place that says them; a test holds it to [`Config`].

use super::Config;

/// What the table is in.
const DOCUMENTATION: &str = include_str!("../../../../docs/agent.md");

impl Config {
    /// The text of a file that says this configuration.
    ///
    /// # Errors
    /// When a value cannot be written as TOML, which paths of other bytes than UTF-8 cannot.
    pub fn text(&self) -> Result<String, toml::ser::Error> {
        let own = toml::Table::try_from(self)?;
        let defaults = toml::Table::try_from(Self::default())?;
        let mut text = "# The host agent, see mcp-monitor-agent(1). `systemctl restart mcp-monitor` takes changes \
             over.\n# Keys that are commented out have their defaults.\n".to_owned();
        let mut current = "";
        for (section, key, meaning) in rows() {
            if section != current {
                text += &format!("\n[{section}]\n");
                current = section;
            }
            text += &format!("# {}\n", meaning.replace('`', ""));
            let value = |of: &toml::Table| of.get(section)?.get(key).cloned();
            let mark = if value(&own) == value(&defaults) { "#" } else { "" };
            match value(&own) {
                Some(value) => text += &format!("{mark}{key} = {value}\n"),
                None => text += &format!("#{key} =\n"),
            }
        }
        Ok(text)
    }
}

/// Section, key and meaning of each row of the table.
fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let section = DOCUMENTATION.split("\n## ").find(|section| section.starts_with("Configuration"));
    section.unwrap_or_default().lines().filter_map(|line| {
        let (key, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (section, key) = key.split_once('.')?;
        let (_, meaning) = rest.strip_suffix(" |")?.split_once(" | ")?;
        Some((section, key, meaning))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_comments_and_say_what_the_keys_mean() {
        let text = Config::default().text().unwrap();
        assert_eq!(Config::parse(&text, "agent.toml").unwrap(), Config::default());
        assert!(
            text.contains("# the segments\n#directory = \"/var/lib/mcp-monitor/events\"\n"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    }

    #[test]
    fn what_is_commented_out_are_the_defaults() {
        let text = Config::default().text().unwrap();
        let bare = |line: &str| !line.starts_with("# ") && !line.ends_with(" =");
        let lines = text.lines().filter(|line| bare(line)).map(|line| line.trim_start_matches('#'));
        let uncommented: Vec<&str> = lines.collect();
        let keys = uncommented.iter().filter(|line| line.contains(" = ")).count();
        let written = toml::to_string(&Config::default()).unwrap();
        assert_eq!(keys, written.lines().filter(|line| line.contains(" = ")).count());
        let parsed = Config::parse(&uncommented.join("\n"), "agent.toml").unwrap();
        assert_eq!(parsed, Config::default());
    }

    #[test]
    fn what_is_configured_is_read_back() {
        let text = "[rules]\ndirectory = \"/srv/rules\"\n[metrics]\nenabled = false\n";
        let config = Config::parse(text, "agent.toml").unwrap();
        let written = config.text().unwrap();
        assert_eq!(Config::parse(&written, "agent.toml").unwrap(), config);
        assert!(written.contains("\nenabled = false\n") && written.contains("\n#listen = "));
    }
}
