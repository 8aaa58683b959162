return {
  { name = "set", summary = "Pairs of clean and corrupted prompts with their answers.",
    text = [[
pb.pairs makes one. set[i] (from 1) has clean and corrupt (runs), answer and wrong (lists of ids), positions, name, info. #set is their
number, set.model the model.]] },
  { name = "pb.pairs", signature = "pb.pairs(model, list [, { bos = }]) -> set", summary = "Prompt pairs, checked and run in one pass.",
    text = [[
Each entry: clean and corrupt (texts, lists of ids, or runs), answer and wrong (a token as text or id, or a list), positions (named places of
the clean prompt: { subject = { 1, 2 }, S2 = 9 }), name, info (anything). Pairs of different length and answers of several tokens are refused,
with the tokens shown.]],
    example = [[local set = pb.pairs(model, {
  { clean = "When Mary and John went to the store, John gave a drink to",
    corrupt = "When Mary and John went to the store, Mary gave a drink to", answer = " Mary", wrong = " John" } })]] },
  { name = "set:sweep", signature = "set:sweep { site =, over =, metric =, direction = \"denoising\", ... } -> grid",
    summary = "One sweep per pair, all measured in one pass: their mean with its standard error.",
    text = [[
As run:sweep, but the values come from the other prompt of the pair: "denoising" puts the clean prompt's values into the corrupted one,
"noising" the other way. With value, zero, mean, add, scale, noise or fn it is the clean prompt that is changed. metric: a name (logit_diff,
logit, prob, prob_diff, log_prob, rank with the pair's answers, nll, kl from the clean run), a metric, or function(pair) -> metric.
pos, dest and src can be names of the pairs' positions ("subject"), and "end" is the last. A sweep over all positions needs prompts of one
length. grid.parts has each pair's grid.]] },
  { name = "set:measure", signature = "set:measure(metric [, \"clean\" | \"corrupt\"]) -> tensor [n]", summary = "The metric of every pair's prompt as it is." },
  { name = "set:metric", signature = "set:metric(metric, i) -> metric", summary = "The metric of pair i, with that pair's own answers.",
    text = "metric: a name as set:sweep takes them, a metric, or function(pair, i) -> metric." },
  { name = "set:position", signature = "set:position(name, i) -> number or list", summary = "What pair i calls a position; \"end\" is the last where it has no other.",
    text = "An unknown name is an error that lists those the pair has." },
  { name = "set:accuracy", signature = "set:accuracy([model]) -> share", summary = "Share of clean prompts whose answer is the likeliest token.",
    text = "With another model of the same vocabulary: that one's share on the same tokens. Of several answers one must be first." },
  { name = "set:split", signature = "set:split(share) -> set, set", summary = "The first share of the pairs, and the rest." },
  { name = "set:filter", signature = "set:filter(function(pair, i) ... end) -> set", summary = "The pairs for which the function gives true." },
}
