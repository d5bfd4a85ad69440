//! Calls of functions and string methods in expressions that make prompts.

use std::collections::BTreeMap;

use tree_sitter::Node;

use super::evaluate::Scope;
use super::python::{ImportProblem, children};
use super::text::{Edge, Piece, Text, is_space};
use super::value::{Items, PythonValue};

/// The arguments of a call.
pub(super) struct CallArguments<'a> {
    pub positional: Vec<Node<'a>>,
    pub named: BTreeMap<&'a str, Node<'a>>,
}

impl<'a> Scope<'a> {
    /// Returns the value of a call.
    pub(super) fn call(&self, node: Node<'a>) -> Result<PythonValue, ImportProblem> {
        let function = self.part(node, "function")?;
        let arguments = self.arguments(node)?;
        match function.kind() {
            "attribute" => {
                let receiver = self.evaluate(self.part(function, "object")?)?;
                let method = self.file.source(self.part(function, "attribute")?);
                self.method(node, receiver, method, &arguments)
            }
            _ => match (self.file.source(function), arguments.positional.as_slice()) {
                ("str", [value]) => Ok(PythonValue::Text(self.text(*value)?)),
                ("len", [list]) => self.length(node, *list),
                _ => Err(self.unknown(node)),
            },
        }
    }

    /// Returns the arguments of a call.
    pub(super) fn arguments(&self, call: Node<'a>) -> Result<CallArguments<'a>, ImportProblem> {
        let given = self.part(call, "arguments")?;
        let mut arguments = CallArguments { positional: Vec::new(), named: BTreeMap::new() };
        if given.kind() == "generator_expression" {
            arguments.positional.push(given);
            return Ok(arguments);
        }
        for argument in children(given) {
            if argument.kind() == "keyword_argument" {
                let name = self.file.source(self.part(argument, "name")?);
                arguments.named.insert(name, self.part(argument, "value")?);
            } else {
                arguments.positional.push(argument);
            }
        }
        Ok(arguments)
    }

    fn length(&self, node: Node<'a>, list: Node<'a>) -> Result<PythonValue, ImportProblem> {
        match self.evaluate(list)? {
            PythonValue::Items(Items { list, .. }) | PythonValue::Each { items: Items { list, .. }, .. } => {
                Ok(PythonValue::field(format!("{list} | length")))
            }
            PythonValue::List(values) => {
                i64::try_from(values.len()).map(PythonValue::Integer).map_err(|_| self.unknown(node))
            }
            _ => Err(self.unknown(node)),
        }
    }

    fn method(
        &self,
        node: Node<'a>,
        receiver: PythonValue,
        method: &str,
        arguments: &CallArguments<'a>,
    ) -> Result<PythonValue, ImportProblem> {
        let positional = arguments.positional.as_slice();
        if !arguments.named.is_empty() && method != "format" {
            return Err(self.unknown(node));
        }
        if let (PythonValue::Dict(fields), "get", [key]) = (&receiver, method, positional) {
            return self.element(node, fields, &self.constant(*key)?);
        }
        let Some(text) = receiver.into_text() else { return Err(self.unknown(node)) };
        let text = match (method, positional) {
            ("join", [list]) => self.joined(&text, *list)?,
            ("format", _) => self.formatted(node, &text, arguments)?,
            ("replace", [from, to]) => self.replaced(node, text, *from, *to)?,
            ("strip" | "lstrip" | "rstrip", [] | [_]) => self.stripped(node, text, method, positional.first())?,
            _ => return Err(self.unknown(node)),
        };
        Ok(PythonValue::Text(text))
    }

    /// Returns the value of `separator.join(list)`.
    fn joined(&self, separator: &Text, list: Node<'a>) -> Result<Text, ImportProblem> {
        match self.evaluate(list)? {
            PythonValue::Each { items: Items { list: field, item, .. }, body } => {
                let Some(separator) = separator.as_constant() else {
                    return Err(self.problem(list, "joins with a text that varies; expected a constant separator"));
                };
                let mut text = Text::default();
                text.push(Piece::Each { list: field, item, body, separator: separator.to_owned() });
                Ok(text)
            }
            PythonValue::List(values) => {
                let mut text = Text::default();
                for (index, value) in values.into_iter().enumerate() {
                    if index > 0 {
                        text.append(separator.clone());
                    }
                    text.append(value.into_text().ok_or_else(|| self.unknown(list))?);
                }
                Ok(text)
            }
            _ => Err(self.unknown(list)),
        }
    }

    /// Returns the value of `text.replace(from, to)`.
    fn replaced(&self, node: Node<'a>, text: Text, from: Node<'a>, to: Node<'a>) -> Result<Text, ImportProblem> {
        let (from, to) = (self.constant(from)?, self.text(to)?);
        text.replaced(&from, &to).ok_or_else(|| {
            let expected = "expected a constant, and in its place a constant or a single name";
            self.problem(node, format!("cannot replace `{from}` in a text that varies; {expected}"))
        })
    }

    /// Returns the value of `text.strip()`, `text.lstrip()` or `text.rstrip()`.
    fn stripped(
        &self,
        node: Node<'a>,
        mut text: Text,
        method: &str,
        characters: Option<&Node<'a>>,
    ) -> Result<Text, ImportProblem> {
        let characters = characters.map(|characters| self.constant(*characters)).transpose()?;
        let strips = |c: char| characters.as_ref().map_or_else(|| is_space(c), |characters| characters.contains(c));
        let edges: &[Edge] = match method {
            "lstrip" => &[Edge::Start],
            "rstrip" => &[Edge::End],
            _ => &[Edge::Start, Edge::End],
        };
        for edge in edges {
            text = text.stripped(*edge, &strips).ok_or_else(|| {
                let place = if *edge == Edge::Start { "begins" } else { "ends" };
                let message = format!("`{}` strips a text that {place} with a field", self.excerpt(node));
                self.problem(node, message + "; expected constant text there")
            })?;
        }
        Ok(text)
    }

    /// Returns the value of `template.format(…)`.
    fn formatted(&self, node: Node<'a>, template: &Text, arguments: &CallArguments<'a>) -> Result<Text, ImportProblem> {
        let wrong = |message: &str| self.problem(node, format!("`{}` {message}", self.excerpt(node)));
        let template =
            template.as_constant().ok_or_else(|| wrong("formats a text that varies; expected a constant"))?;
        let mut text = Text::default();
        let mut rest = template;
        let mut automatic = 0;
        while let Some(at) = rest.find(['{', '}']) {
            text.push(Piece::Constant(rest[..at].to_owned()));
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                text.push(Piece::Constant(brace.to_owned()));
                rest = after;
                continue;
            }
            let field = if brace == "{" { after.split_once('}') } else { None };
            let Some((name, after)) = field else {
                return Err(wrong("has an unpaired brace in its template; expected `{{` or `}}`"));
            };
            let value = if name.is_empty() {
                automatic += 1;
                arguments.positional.get(automatic - 1)
            } else if let Ok(index) = name.parse::<usize>() {
                arguments.positional.get(index)
            } else {
                arguments.named.get(name)
            };
            let Some(value) = value else {
                let expected = "expected plain `{}`, `{0}` or `{name}`";
                return Err(wrong(&format!("has no argument for `{{{name}}}`; {expected}")));
            };
            text.append(self.text(*value)?);
            rest = after;
        }
        text.push(Piece::Constant(rest.to_owned()));
        Ok(text)
    }
}
