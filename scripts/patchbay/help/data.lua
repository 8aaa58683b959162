return {
  { name = "patchbay.data", summary = "Data sets: facts and pairs of prompts from files, checked against the model.",
    text = [[
local data = require "patchbay.data"

A line that cannot be read (no JSON, missing fields, a subject that is not in the prompt) is an error that names it; skip_bad = true goes on without
such lines and counts them. What can be read but not used with this model (an answer of several tokens, prompts of different length, a fact that
it does not know) is dropped, counted and told in a line of output (quiet = true leaves the line out). Nothing left is an error.]] },
  { name = "patchbay.data.facts", signature = "data.facts(model, source [, { n =, seed =, skip_bad =, unknown =, subject_tokens =, bos =, quiet = }]) -> facts",
    summary = "Facts in ROME's format (known_1000), those that the model knows.",
    text = [[
source: a built-in file ("facts", "facts_paraphrase", "facts_all_templates"), a .json, .jsonl or .csv file, or a list. Records: subject, prompt (or
template with "{}"), answer (or attribute, with a space in front). The answer must be one token, and the likeliest after the prompt (unknown = "keep":
also others; fact.known says which). n: so many, drawn with the seed and given in the file's order. subject_tokens = { 2, 6 }: lengths of subjects.
A fact: prompt, subject, answer (id), answer_text, positions (of the subject), run, relation, record, line. Fields of the list: report (text, read,
kept, dropped, bad), subjects (token ids of every subject of the file: the scale of the noise in causal tracing), all.
facts:pairs { seed =, quiet = } -> set: each prompt and the same words with another subject of as many tokens whose answer is another one that the
model gives. Positions: subject, subject_last, after. facts:accuracy([model]) -> share. facts:split(share) -> two lists.]],
    example = [[local facts = data.facts(model, "facts", { n = 100 })
local set = facts:pairs { seed = 1 }]] },
  { name = "patchbay.data.pairs", signature = "data.pairs(model, source [, { n =, seed =, labels =, skip_bad =, clean =, corrupt =, answer =, wrong =, bos =, quiet = }]) -> set, report",
    summary = "Pairs of prompts from a file: JSONL, or CSV as EAP-IG has it.",
    text = [[
Columns: clean, corrupt or corrupted; answer or correct_idx (a token, an id, or a list of ids "[5, 7]"); wrong or incorrect_idx. Other names can be given
(answer = "column"). labels = "years": the column label is a year of two digits; answers are all above it, wrong ones the rest (greater-than).
Built-in files: "ioi", "induction", "greater_than", "subject_verb", "facts".]] },
  { name = "patchbay.data.years", signature = "data.years(model, year) -> ids above, ids of the rest", summary = "Two-digit numbers that are tokens, cut at a year." },
  { name = "patchbay.data.shuffled", signature = "data.shuffled(n, seed [, draw]) -> list", summary = "A permutation of 1 to n, the same on every machine." },
}
