//! The part of JSON Schema that our OpenAPI document uses. A word that is not known here fails the test: it would check
//! nothing.

use serde_json::Value;

/// Checks that `value` is what `schema` says; `document` holds what it refers to.
///
/// # Errors
/// The first thing that is not, with its place.
pub fn check(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let wrong = |why: String| Err(format!("{place}: {why}; it is {value}"));
    let Some(words) = schema.as_object() else { return wrong(format!("{schema} is no schema")) };
    for (word, rule) in words {
        let fits = match word.as_str() {
            "description" | "default" => true,
            "$ref" => {
                let target = document.pointer(rule.as_str().unwrap().trim_start_matches('#'));
                let Some(target) = target else { return wrong(format!("{rule} leads nowhere")) };
                return check(document, target, value, place);
            }
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is(value, kind.as_str().unwrap())),
                kind => is(value, kind.as_str().unwrap()),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "minimum" => value.as_f64().is_none_or(|value| value >= rule.as_f64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "oneOf" => {
                let choices = rule.as_array().unwrap().iter();
                let outcomes: Vec<_> = choices.map(|choice| check(document, choice, value, place)).collect();
                match outcomes.iter().filter(|outcome| outcome.is_ok()).count() {
                    1 => true,
                    _ => return wrong(format!("not exactly one choice fits: {outcomes:?}")),
                }
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, rule, item, &format!("{place}[{number}]"))?;
                }
                true
            }
            "required" => {
                let names: Vec<&str> =
                    rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
                match names
                    .iter()
                    .find(|name| value.as_object().is_some_and(|object| !object.contains_key(**name)))
                {
                    Some(name) => return wrong(format!("it lacks {name:?}")),
                    None => true,
                }
            }
            "properties" => {
                for (name, property) in rule.as_object().unwrap() {
                    if let Some(inner) = value.get(name) {
                        check(document, property, inner, &format!("{place}.{name}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let more = value.as_object().into_iter().flatten();
                for (name, inner) in
                    more.filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name)))
                {
                    match rule {
                        Value::Bool(allowed) if *allowed => {}
                        Value::Bool(_) => return wrong(format!("{name:?} is not described")),
                        rule => check(document, rule, inner, &format!("{place}.{name}"))?,
                    }
                }
                true
            }
            word => return wrong(format!("the schema's word {word:?} is not known to this test")),
        };
        if !fits {
            return wrong(format!("{word} should be {rule}"));
        }
    }
    Ok(())
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        kind => panic!("{kind:?} is no type"),
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let document = serde_json::json!({"a": {"type": "object", "required": ["n"], "additionalProperties": false,
        "properties": {"n": {"type": ["integer", "null"], "minimum": 0}, "w": {"items": {"enum": ["x"]}},
                       "o": {"oneOf": [{"type": "null"}, {"$ref": "#/a"}]}}}});
    let check = |value: Value| check(&document, &document["a"], &value, "it");
    for fits in [r#"{"n":1}"#, r#"{"n":null,"w":["x"]}"#, r#"{"n":1,"o":{"n":2}}"#, r#"{"n":1,"o":null}"#] {
        assert_eq!(check(serde_json::from_str(fits).unwrap()), Ok(()), "{fits}");
    }
    for (wrong, words) in [
        ("[]", "type"),
        ("{}", "lacks \"n\""),
        (r#"{"n":1.5}"#, "it.n"),
        (r#"{"n":-1}"#, "minimum"),
        (r#"{"n":1,"m":1}"#, "\"m\" is not described"),
        (r#"{"n":1,"w":["x","y"]}"#, "it.w[1]"),
        (r#"{"n":1,"o":{"n":"2"}}"#, "not exactly one"),
    ] {
        let message = check(serde_json::from_str(wrong).unwrap()).unwrap_err();
        assert!(message.contains(words), "{wrong}: {message}");
    }
}
