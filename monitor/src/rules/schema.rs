//! A JSON Schema of rule files for editors, made of the keys that the parser knows.
//!
//! It says what can stand where. What patterns and addresses look like, and what rules mean on a
//! machine, is `check`'s to say.

use monitor_common::policy::verdict;
use serde_json::{Map, Value, json};

use crate::detect::{COUNT_MAX, PARAMETERS, Unit};

use super::parse::{EVENT_NAMES, INCLUDE_FILE, Key, LISTS, SCHEMA, SERVER_FILE, SET_FILE, Shape};

/// The schema of servers, drop-ins, includes and sets: they are told apart by what names them.
pub fn schema() -> Value {
    // A drop-in names nothing; what an include has, a server's file may have, too.
    let nameless = [of("", &SERVER_FILE, &[]), of("", &INCLUDE_FILE, &[])];
    let mut properties = Map::new();
    for value in nameless {
        if let Some(own) = value["properties"].as_object() {
            properties.extend(own.clone());
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rules of mcp-monitor",
        "if": { "required": ["server"] },
        "then": of("", &SERVER_FILE, &["schema", "server"]),
        "else": {
            "if": { "required": ["set"] },
            "then": of("", &SET_FILE, &["schema", "set", "access"]),
            "else": {
                "type": "object",
                "properties": properties,
                "additionalProperties": false,
                "required": ["schema"],
            },
        },
    })
}

/// The schema of a table called `name`.
fn of(name: &str, shape: &Shape, required: &[&str]) -> Value {
    let mut properties = Map::new();
    for (key, found) in shape.keys(name).unwrap_or_default() {
        let value = match (found, LISTS.iter().find(|list| (list.table, list.key) == (name, key))) {
            (Some(Key { doc, shape, .. }), _) => described(value(key, shape), doc),
            (None, Some(list)) => described(strings(), list.doc),
            (None, None) => match PARAMETERS.iter().find(|it| (it.table, it.key) == (name, key)) {
                Some(parameter) => limit(parameter.unit),
                None => json!({ "enum": verdict::NAMES }),
            },
        };
        properties.insert(key.to_owned(), value);
    }
    let mut table = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

fn described(mut value: Value, doc: &str) -> Value {
    value["description"] = json!(doc);
    value
}

/// The schema of what stands behind a key.
fn value(key: &str, shape: &Shape) -> Value {
    match shape {
        Shape::Version => json!({ "const": SCHEMA }),
        Shape::Text => json!({ "type": "string" }),
        Shape::Texts => strings(),
        Shape::Word(words) => json!({ "enum": words }),
        Shape::Words(words) => list_of(&json!({ "enum": words })),
        Shape::Events => {
            let types = list_of(&json!({ "enum": EVENT_NAMES.as_slice() }));
            json!({ "anyOf": [{ "enum": ["all", "violations"] }, types] })
        }
        Shape::Bytes => json!({ "anyOf": [
            { "type": "integer", "minimum": 1 << 20 },
            { "type": "string", "pattern": "^[0-9]+[KMGT]?$" },
        ] }),
        Shape::Count => json!({ "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": "^[0-9]+$" },
        ] }),
        Shape::Share => json!({ "type": "string", "pattern": "^[0-9]+%$" }),
        Shape::Vectors => {
            let vectors = json!({ "type": "array", "items": strings(), "minItems": 1 });
            json!({ "type": "object", "additionalProperties": vectors })
        }
        Shape::Verdicts(_) | Shape::Limits | Shape::Table(_) | Shape::Lists(_) => {
            of(key, shape, &[])
        }
        Shape::Tables(_) => list_of(&of(key, shape, &[])),
    }
}

fn strings() -> Value {
    list_of(&json!({ "type": "string" }))
}

fn list_of(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn limit(unit: Unit) -> Value {
    match unit {
        Unit::Count => json!({ "type": "integer", "minimum": 2, "maximum": COUNT_MAX }),
        Unit::Time => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
    }
}
