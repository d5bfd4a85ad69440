//! Evaluates the Python expressions that make prompts, without running them.
//!
//! Names that a caller binds stand for template fields, so the value of an expression is text with fields. What a prompt
//! does not need (calls of other functions, attributes, arithmetic beyond counting) has no value and is reported.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::literal;
use super::names::{binders, block, first_return};
use super::python::{ImportProblem, PythonFile, children};
use super::text::{Piece, Text};
use super::value::PythonValue;

/// The longest text that repetition may make.
const MAX_REPEATED: usize = 10_000;

/// A function in which names have values.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    pub(super) file: &'a PythonFile,
    function: Node<'a>,
    names: Vec<(&'a str, PythonValue)>,
}

impl<'a> Scope<'a> {
    /// Creates the scope of a function in which `names` stand for given values, whatever the function assigns to them.
    pub fn new(file: &'a PythonFile, function: Node<'a>, names: Vec<(&'a str, PythonValue)>) -> Self {
        Self { file, function, names }
    }

    /// Returns the value of the only assignment to `name`.
    pub fn variable(&self, name: &str) -> Result<PythonValue, ImportProblem> {
        match binders(self.file, self.function, name).as_slice() {
            [] => Err(self.problem(self.function, format!("never assigns `{name}`; expected the prompt in it"))),
            [one] => self.assigned(*one, name),
            [_, second, ..] => {
                Err(self.problem(*second, format!("changes `{name}` again; expected one assignment of the prompt")))
            }
        }
    }

    /// Returns the value of the first `return` statement.
    pub fn returned(&self) -> Result<PythonValue, ImportProblem> {
        let found = first_return(self.function).and_then(|statement| children(statement).first().copied());
        match found {
            Some(value) => self.evaluate(value),
            None => Err(self.problem(self.function, "returns nothing; expected a function that returns the prompt")),
        }
    }

    pub(super) fn problem(&self, node: Node<'_>, message: impl Into<String>) -> ImportProblem {
        self.file.problem(node, message)
    }

    /// Returns the value of an expression.
    pub(super) fn evaluate(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        match node.kind() {
            "string" => Ok(PythonValue::Text(self.string(node)?)),
            "concatenated_string" => {
                let mut text = Text::default();
                for part in children(node) {
                    text.append(self.string(part)?);
                }
                Ok(PythonValue::Text(text))
            }
            "parenthesized_expression" => self.evaluate(self.only_child(node)?),
            "assignment" => self.evaluate(self.part(node, "right")?),
            "identifier" => self.name(self.file.source(node), node, node.start_byte()),
            "integer" => self.integer(node),
            "binary_operator" => self.operation(node),
            "subscript" => self.subscript(node),
            "conditional_expression" => self.conditional(node),
            "list" => {
                Ok(PythonValue::List(children(node).into_iter().map(|n| self.evaluate(n)).collect::<Result<_, _>>()?))
            }
            "dictionary" => self.dictionary(node),
            "list_comprehension" | "generator_expression" => self.comprehension(node),
            "call" => self.call(node),
            _ => Err(self.unknown(node)),
        }
    }

    /// Returns the value of an expression as a string.
    pub(super) fn text(&self, node: Node<'a>) -> Result<Text, ImportProblem> {
        let value = self.evaluate(node)?;
        let kind = value.kind();
        value.into_text().ok_or_else(|| {
            self.problem(node, format!("`{}` is {kind}; expected a string or an integer", self.excerpt(node)))
        })
    }

    /// Returns the value of an expression that must be a string without fields.
    pub(super) fn constant(&self, node: Node<'a>) -> Result<String, ImportProblem> {
        let text = self.text(node)?;
        text.as_constant().map(str::to_owned).ok_or_else(|| {
            self.problem(node, format!("`{}` varies; expected a string that never varies", self.excerpt(node)))
        })
    }

    pub(super) fn unknown(&self, node: Node<'_>) -> ImportProblem {
        let expected = "expected string literals, f-strings, names with a value, `+`, `*`, `join` over a list, \
                        `format`, `replace`, `strip`, `len` or `str`";
        self.problem(node, format!("cannot evaluate `{}`; {expected}", self.excerpt(node)))
    }

    /// Returns the beginning of a node's source, for errors.
    pub(super) fn excerpt(&self, node: Node<'_>) -> String {
        let line = self.file.source(node).lines().next().unwrap_or_default();
        match line.char_indices().nth(40) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line.to_owned(),
        }
    }

    /// Returns the part of a node that the grammar calls `field`.
    pub(super) fn part(&self, node: Node<'a>, field: &str) -> Result<Node<'a>, ImportProblem> {
        node.child_by_field_name(field).ok_or_else(|| self.unknown(node))
    }

    fn only_child(&self, node: Node<'a>) -> Result<Node<'a>, ImportProblem> {
        match children(node).as_slice() {
            [child] => Ok(*child),
            _ => Err(self.unknown(node)),
        }
    }

    fn string(&self, node: Node<'a>) -> Result<Text, ImportProblem> {
        let parts = children(node);
        let (Some(start), "string") = (parts.first(), node.kind()) else { return Err(self.unknown(node)) };
        let wrong = |message: String| self.problem(node, format!("`{}` {message}", self.excerpt(node)));
        let prefix = literal::prefix(self.file.source(*start)).map_err(wrong)?;
        let mut text = Text::default();
        let mut at = start.end_byte();
        for part in &parts[1..] {
            if !matches!(part.kind(), "interpolation" | "string_end") {
                continue;
            }
            let constant = literal::decode(self.file.slice(at, part.start_byte()), prefix).map_err(wrong)?;
            text.push(Piece::Constant(constant));
            if part.kind() == "interpolation" {
                text.append(self.interpolation(*part)?);
            }
            at = part.end_byte();
        }
        Ok(text)
    }

    /// Returns the text of `{expression}` in an f-string.
    fn interpolation(&self, node: Node<'a>) -> Result<Text, ImportProblem> {
        let expression = self.part(node, "expression")?;
        match self.file.slice(expression.end_byte(), node.end_byte()).trim() {
            "}" | "!s}" => self.text(expression),
            _ => {
                let message = format!("`{}` formats its value; expected a plain {{name}}", self.excerpt(node));
                Err(self.problem(node, message))
            }
        }
    }

    /// Returns the value of `name`, used at the position `at` by `node`.
    fn name(&self, name: &str, node: Node<'a>, at: usize) -> Result<PythonValue, ImportProblem> {
        if let Some((_, value)) = self.names.iter().rev().find(|(bound, _)| *bound == name) {
            return Ok(value.clone());
        }
        let before: Vec<Node<'a>> =
            binders(self.file, self.function, name).into_iter().filter(|binder| binder.end_byte() <= at).collect();
        if let Some(last) = before.last() {
            let around = block(*last);
            if at < around.start_byte() || at > around.end_byte() {
                let expected = "expected an assignment in the block that uses it";
                return Err(self.problem(*last, format!("`{name}` is assigned in a branch; {expected}")));
            }
            return self.assigned(*last, name);
        }
        let module = self.file.module();
        if self.function != module {
            let constants = binders(self.file, module, name);
            if let [constant] = constants.as_slice() {
                return Scope::new(self.file, module, Vec::new()).assigned(*constant, name);
            }
        }
        let known: Vec<String> = self.names.iter().map(|(name, _)| format!("`{name}`")).collect();
        let known = if known.is_empty() { String::new() } else { format!(", or one of {}", known.join(", ")) };
        Err(self.problem(node, format!("`{name}` has no value here; expected a name that is assigned before{known}")))
    }

    /// Returns the value that a statement gives to `name`.
    fn assigned(&self, binder: Node<'a>, name: &str) -> Result<PythonValue, ImportProblem> {
        let plain = binder.child_by_field_name("left").is_some_and(|left| left.kind() == "identifier");
        match binder.kind() {
            "assignment" if plain => self.evaluate(self.part(binder, "right")?),
            "augmented_assignment" if plain && self.operator(binder) == Some("+=") => {
                let before = self.name(name, binder, binder.start_byte())?;
                let added = self.evaluate(self.part(binder, "right")?)?;
                added_up(before, added).ok_or_else(|| self.unknown(binder))
            }
            _ => {
                let message = format!("`{}` changes `{name}`; expected a plain assignment", self.excerpt(binder));
                Err(self.problem(binder, message))
            }
        }
    }

    fn operator(&self, node: Node<'a>) -> Option<&'a str> {
        node.child_by_field_name("operator").map(|operator| self.file.source(operator))
    }

    fn integer(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        self.file.source(node).parse().map(PythonValue::Integer).map_err(|_| self.unknown(node))
    }

    fn operation(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        let left = self.evaluate(self.part(node, "left")?)?;
        let right = self.evaluate(self.part(node, "right")?)?;
        let value = match self.operator(node) {
            Some("+") => added_up(left, right),
            Some("-") => match (left, right) {
                (PythonValue::Integer(a), PythonValue::Integer(b)) => a.checked_sub(b).map(PythonValue::Integer),
                (PythonValue::Index(a), PythonValue::Integer(b)) => a.checked_sub(b).map(PythonValue::Index),
                _ => None,
            },
            Some("*") => match (left, right) {
                (PythonValue::Integer(a), PythonValue::Integer(b)) => a.checked_mul(b).map(PythonValue::Integer),
                (PythonValue::Text(text), PythonValue::Integer(times))
                | (PythonValue::Integer(times), PythonValue::Text(text)) => {
                    repeated(&text, times).map(PythonValue::Text)
                }
                _ => None,
            },
            _ => None,
        };
        value.ok_or_else(|| self.unknown(node))
    }

    fn subscript(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        let PythonValue::Dict(fields) = self.evaluate(self.part(node, "value")?)? else {
            return Err(self.unknown(node));
        };
        let key = self.constant(self.part(node, "subscript")?)?;
        self.element(node, &fields, &key)
    }

    /// Returns the value of a key.
    pub(super) fn element(
        &self,
        node: Node<'_>,
        dict: &BTreeMap<String, PythonValue>,
        key: &str,
    ) -> Result<PythonValue, ImportProblem> {
        dict.get(key).cloned().ok_or_else(|| {
            let known: Vec<String> = dict.keys().map(|key| format!("`{key}`")).collect();
            let excerpt = self.excerpt(node);
            self.problem(node, format!("`{excerpt}` has no template field; expected one of {}", known.join(", ")))
        })
    }

    /// Returns the value of `a if past is not None else b`.
    fn conditional(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        let parts = children(node);
        let [yes, condition, no] = parts.as_slice() else { return Err(self.unknown(node)) };
        let (yes, given, no) = (self.text(*yes)?, self.asks_for_past(*condition)?, self.text(*no)?);
        Ok(PythonValue::Text(if given { Text::by_past(yes, no) } else { Text::by_past(no, yes) }))
    }

    /// Returns whether a condition is true with a past summary (and false without) or the other way round.
    fn asks_for_past(&self, condition: Node<'a>) -> Result<bool, ImportProblem> {
        let unknown = || {
            let message = format!("cannot evaluate `{}`; expected `… is not None`", self.excerpt(condition));
            self.problem(condition, message + " about the past summary")
        };
        let parts = children(condition);
        let ("comparison_operator", [left, right]) = (condition.kind(), parts.as_slice()) else {
            return Err(unknown());
        };
        if right.kind() != "none" || self.evaluate(*left)? != PythonValue::Past {
            return Err(unknown());
        }
        let operator: Vec<&str> = self.file.slice(left.end_byte(), right.start_byte()).split_whitespace().collect();
        match operator.as_slice() {
            ["is", "not"] => Ok(true),
            ["is"] => Ok(false),
            _ => Err(unknown()),
        }
    }

    fn dictionary(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        let mut fields = BTreeMap::new();
        for pair in children(node) {
            let key = self.constant(self.part(pair, "key")?)?;
            fields.insert(key, self.evaluate(self.part(pair, "value")?)?);
        }
        Ok(PythonValue::Dict(fields))
    }

    /// Returns the value of `[text for element in list]`, with or without `enumerate`.
    fn comprehension(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        let body = self.part(node, "body")?;
        let rest: Vec<Node<'a>> = children(node).into_iter().filter(|child| *child != body).collect();
        let [clause] = rest.as_slice() else { return Err(self.unknown(node)) };
        let (left, right) = (self.part(*clause, "left")?, self.part(*clause, "right")?);
        let (list, start) = self.iterated(right)?;
        let PythonValue::Items(items) = self.evaluate(list)? else {
            let message = format!("`{}` is no list that varies; expected the history", self.excerpt(list));
            return Err(self.problem(list, message));
        };
        let mut inner = self.clone();
        let targets = if left.kind() == "identifier" { vec![left] } else { children(left) };
        match (targets.as_slice(), start) {
            ([element], None) => inner.bind(*element, (*items.element).clone()),
            ([index, element], Some(start)) => {
                inner.bind(*index, PythonValue::Index(start));
                inner.bind(*element, (*items.element).clone());
            }
            _ => return Err(self.problem(left, "cannot unpack; expected `index, element` with `enumerate`")),
        }
        let body = inner.text(body)?;
        Ok(PythonValue::Each { items, body })
    }

    fn bind(&mut self, target: Node<'a>, value: PythonValue) {
        self.names.push((self.file.source(target), value));
    }

    /// Returns the list that a loop iterates over and, with `enumerate`, the first index.
    fn iterated(&self, node: Node<'a>) -> Result<(Node<'a>, Option<i64>), ImportProblem> {
        let function = node.child_by_field_name("function").map(|function| self.file.source(function));
        if node.kind() != "call" || function != Some("enumerate") {
            return Ok((node, None));
        }
        let arguments = self.arguments(node)?;
        let start = arguments.positional.get(1).or_else(|| arguments.named.get("start"));
        let start = match start {
            None => 0,
            Some(start) => match self.evaluate(*start)? {
                PythonValue::Integer(start) => start,
                _ => return Err(self.unknown(*start)),
            },
        };
        let list = arguments.positional.first().ok_or_else(|| self.unknown(node))?;
        Ok((*list, Some(start)))
    }
}

fn added_up(left: PythonValue, right: PythonValue) -> Option<PythonValue> {
    match (left, right) {
        (PythonValue::Text(mut left), PythonValue::Text(right)) => {
            left.append(right);
            Some(PythonValue::Text(left))
        }
        (PythonValue::Text(mut left), PythonValue::Past) => {
            left.push(Piece::Field("past".into()));
            Some(PythonValue::Text(left))
        }
        (PythonValue::Past, PythonValue::Text(right)) => {
            let mut left = Text::field("past");
            left.append(right);
            Some(PythonValue::Text(left))
        }
        (PythonValue::Integer(a), PythonValue::Integer(b)) => a.checked_add(b).map(PythonValue::Integer),
        (PythonValue::Index(a), PythonValue::Integer(b)) | (PythonValue::Integer(b), PythonValue::Index(a)) => {
            a.checked_add(b).map(PythonValue::Index)
        }
        _ => None,
    }
}

fn repeated(text: &Text, times: i64) -> Option<Text> {
    let (text, times) = (text.as_constant()?, usize::try_from(times).unwrap_or_default());
    (text.len().saturating_mul(times) <= MAX_REPEATED).then(|| Text::constant(text.repeat(times)))
}
