//! The JSON Schema for editors says what the parser says, and the published copy is the current one.

use serde_json::Value;

use super::*;

/// The keywords that our schema uses; patterns are taken as matched.
fn is_valid(schema: &Value, value: &Value) -> bool {
    let each = |name: &str| schema[name].as_array().cloned().unwrap_or_default();
    let typed = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some(other) => panic!("{other}"),
        None => true,
    };
    let minimum = schema["minimum"].as_i64();
    let fits = minimum.is_none_or(|minimum| value.as_i64().is_none_or(|value| value >= minimum));
    let required = each("required").iter().all(|key| value.get(key.as_str().unwrap()).is_some());
    let chosen = match (schema.get("if"), schema.get("then"), schema.get("else")) {
        (Some(condition), Some(then), Some(other)) => {
            is_valid(if is_valid(condition, value) { then } else { other }, value)
        }
        _ => true,
    };
    let keys = value.as_object().into_iter().flatten().all(|(key, inner)| {
        match (schema["properties"].get(key), schema.get("additionalProperties")) {
            (Some(own), _) => is_valid(own, inner),
            (None, Some(Value::Bool(more))) => *more,
            (None, Some(more)) => is_valid(more, inner),
            (None, None) => true,
        }
    });
    let items = schema.get("items").is_none_or(|items| {
        value.as_array().into_iter().flatten().all(|inner| is_valid(items, inner))
    });
    let enough = schema["minItems"].as_u64().unwrap_or(0);
    let long = value.as_array().is_none_or(|all| all.len() as u64 >= enough);
    let one = schema.get("anyOf").is_none() || each("anyOf").iter().any(|it| is_valid(it, value));
    let listed = schema.get("enum").is_none() || each("enum").contains(value);
    let same = schema.get("const").is_none_or(|own| own == value);
    typed && fits && required && chosen && keys && items && long && one && listed && same
}

fn is_valid_text(text: &str) -> bool {
    is_valid(&schema(), &toml::from_str(text).unwrap())
}

#[test]
fn the_published_copy_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../rules/schema.json");
    let current = format!("{:#}\n", schema());
    let told = "write it: `mcp-monitor check --schema > rules/schema.json`";
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), current, "{told}");
}

#[test]
fn shipped_rules_are_valid() {
    let search = SearchPath::built_in();
    for kind in [SourceKind::Server, SourceKind::Include, SourceKind::Set] {
        for name in search.names(kind).unwrap() {
            let source = search.find(kind, &name).unwrap().unwrap();
            assert!(is_valid_text(&source.text), "{}", source.path);
        }
    }
}

#[test]
fn each_kind_of_text_has_its_own_keys() {
    let server = "schema = 1\nserver = \"s\"\n";
    assert!(is_valid_text(server));
    assert!(is_valid_text(&format!("{server}[response]\nmode = \"enforce\"")));
    assert!(!is_valid_text(&format!("{server}description = \"x\"")));
    assert!(!is_valid_text("server = \"s\""));
    assert!(is_valid_text("schema = 1\n[response]\nmode = \"enforce\""));
    assert!(is_valid_text("schema = 1\ndescription = \"an include\""));
    assert!(is_valid_text("schema = 1\nset = \"escape\"\naccess = [\"read\"]"));
    assert!(!is_valid_text("schema = 1\nset = \"escape\"\naccess = [\"red\"]"));
    assert!(!is_valid_text("schema = 1\nset = \"escape\"\naccess = []\n[files]"));
}

/// Paths of everything that a server's file can say.
fn paths(schema: &Value, path: &[String], all: &mut Vec<Vec<String>>) {
    for (key, own) in schema["properties"].as_object().into_iter().flatten() {
        let path = [path, std::slice::from_ref(key)].concat();
        paths(own, &path, all);
        paths(&own["items"], &path, all);
        all.push(path);
    }
}

/// A server's file in which this stands at a path.
fn text_with(path: &[String], value: &str) -> String {
    let (key, tables) = path.split_last().unwrap();
    let header = match tables {
        [] => String::new(),
        [one] if one == "match" => "[[match]]\n".to_owned(),
        _ => format!("[{}]\n", tables.join(".")),
    };
    let head: String = [("schema", "1"), ("server", "\"s\"")]
        .iter()
        .filter(|(name, _)| !tables.is_empty() || name != key)
        .map(|(name, own)| format!("{name} = {own}\n"))
        .collect();
    format!("{head}{header}{key} = {value}\n")
}

#[test]
fn parser_and_schema_agree_about_types_and_keys() {
    const VALUES: [&str; 10] = [
        "3",
        "true",
        "1.5",
        "\"x\"",
        "[]",
        "[\"x\"]",
        "[3]",
        "{ zzz = 1 }",
        "[[\"x\"]]",
        "[{ zzz = 1 }]",
    ];
    let mut all = Vec::new();
    paths(&schema()["then"], &[], &mut all);
    assert!(all.len() > 50, "{}", all.len());
    for path in &all {
        for value in VALUES {
            let text = text_with(path, value);
            let valid = is_valid_text(&text);
            let findings = parse_server(&text, "s").err().unwrap_or_default();
            let said: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
            // What editors flag is wrong.
            assert!(valid || !said.is_empty(), "the schema alone refuses\n{text}");
            // What is of another type, or unknown, is flagged by editors.
            let by_type = |said: &&str| {
                said.contains(" must be ") && !said.contains("must be a time")
                    || said.contains("unknown key")
                    || said.contains(" cannot be \"")
            };
            assert!(
                !valid || !said.iter().any(by_type),
                "the parser alone refuses {said:?}\n{text}"
            );
        }
    }
}
