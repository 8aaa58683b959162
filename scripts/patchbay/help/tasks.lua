local function task(name, options, summary, text)
  return { name = "patchbay.tasks." .. name, signature = ("tasks.%s(model [, { n = 20, seed =, bos =%s }]) -> set"):format(name, options), summary = summary, text = text }
end
return {
  { name = "patchbay.tasks", summary = "Tasks of the field as sets of matched pairs, made with a seed.",
    text = [[
local tasks = require "patchbay.tasks"

Every pair has a clean and a corrupted prompt of one length, one-token answers and named positions (which sweeps take: pos = { "S2", "end" }). Words that
are not one token of the model are not used; pairs that do not fit are dropped and counted. Whether the model can do the task is another
question: set:accuracy(), set:measure("logit_diff").]] },
  task("ioi", ", corrupt = \"swap\", template =", "Indirect object: \"When Mary and John went to the store, John gave a drink to\".",
    [[corrupt: "swap" (the second subject becomes the other name), "abc" (three new names), "s2" (the second subject a third name). template: one of the
sentences by its number (all prompts of one length); default all of them. Positions: IO, S1, S1_next, S2, end. pair.info.order: ABBA or BABA.]]),
  task("greater_than", "", "\"The war lasted from the year 1732 to the year 17\": answers are all later years.",
    "Wrong: the other two-digit numbers. Corrupt: the year 01. Metric: prob_diff. Positions: year, end."),
  task("induction", ", length = 12, repeated =, corrupt = \"match\", tokens =", "Random words, then their beginning again: which word came next?",
    [[repeated: words said again (default half). tokens: what words are drawn from, a list of ids or a set of pairs (default: whole words). Corrupt, the first time: "match": the word before the answer is another one, so that nothing matches
(what keys carry); "target": the answer is another word (what values carry). Positions: first (the match), target, end.]]),
  task("facts", "", "Facts that the model knows, corrupted by another subject.", "data.facts(model, \"facts\"):pairs(). Positions: subject, subject_last, after."),
  task("agreement", "", "\"The keys to the cabinet\": are or is?", "Corrupt: the subject in the other number. Positions: subject, attractor, end."),
  task("docstring", "", "Which argument is documented next?", "Corrupt: that argument has another name in the definition. Positions: definition, second, end."),
}
