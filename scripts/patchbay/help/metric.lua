local function answer(name, what)
  return { name = "pb.metric." .. name, signature = ("pb.metric.%s(answers [, { pos = -1 }]) -> metric"):format(name), summary = what }
end

return {
  { name = "metric", summary = "A number made from a run's logits. metric(run) gives it.",
    text = [[
A metric is a description: tokens given as texts (" Paris") become ids when it meets a run, by that run's model. A text that is not one
token is an error that shows its pieces; ids are taken as they are. pos: a position, a list of them, or "all"; with several the metric
is their mean. The default is the last position.
metric(run) and run:measure round to float32, so equal values are equal to the bit. Fields: kind, answers, wrong, weights, pos, reference.]],
    example = [[local metric = pb.metric.logit_diff(" Paris", { " Rome", " Berlin" })
print(metric(clean), metric(corrupt))]] },
  answer("logit", "The mean logit of the answers."),
  answer("prob", "The probability of the answers, summed."),
  answer("log_prob", "The natural logarithm of the answers' probability."),
  answer("rank", "How many tokens have a larger logit than the answer (one token); 0: it is the likeliest."),
  { name = "pb.metric.logit_diff", signature = "pb.metric.logit_diff(answers, wrong [, { pos = -1 }]) -> metric",
    summary = "Mean logit of the answers minus mean logit of the wrong ones." },
  { name = "pb.metric.logits", signature = "pb.metric.logits({ [token] = weight, ... } [, { pos = -1 }]) -> metric",
    summary = "A weighted sum of logits: any linear function of them, with its gradient.",
    text = [[
Tokens are texts or ids, weights finite numbers; a token named twice (as text and as id) is an error. logit_diff is the case of weights that
are 1 / (number of answers) and -1 / (number of wrong ones). In a list { 0.5, 2 } the tokens are the ids 1 and 2.]],
    example = [[local season = pb.metric.logits { [" summer"] = 1, [" spring"] = 0.5, [" winter"] = -1, [" autumn"] = -0.5 }]] },
  { name = "pb.metric.prob_diff", signature = "pb.metric.prob_diff(answers, wrong [, { pos = -1 }]) -> metric",
    summary = "Probability of the answers minus that of the wrong ones, each summed (greater-than)." },
  { name = "pb.metric.nll", signature = "pb.metric.nll([{ pos = }]) -> metric",
    summary = "Mean negative log likelihood of the prompt's own next tokens, in nats.",
    text = "The mean over positions p of -log P(token p + 1 | tokens 0 to p); by default all positions but the last." },
  { name = "pb.metric.kl", signature = "pb.metric.kl(reference_run [, { pos = -1 }]) -> metric",
    summary = "KL divergence from the reference run's prediction to the run's, in nats.",
    text = "sum over tokens of P_ref (log P_ref - log P_run), at the same positions." },
  { name = "pb.metric.fn", signature = "pb.metric.fn(function(logits, run) return number end [, { pos = -1 }]) -> metric",
    summary = "A metric of your own, of the logits at the positions: a tensor [positions, vocab].",
    text = "run is the unpatched run that is being measured. Called once per variant. NaN is an error that names the variant (infinity is a value)." },
  { name = "metric.kind", signature = "metric.kind -> text", summary = "\"logit_diff\", \"prob\", ..." },
  { name = "metric.answers", signature = "metric.answers -> list or nil", summary = "The answers as they were given." },
  { name = "metric.wrong", signature = "metric.wrong -> list or nil", summary = "The wrong answers as they were given." },
  { name = "metric.weights", signature = "metric.weights -> list or nil", summary = "The answers' weights in a sum of logits, in the order of metric.answers." },
  { name = "metric.pos", signature = "metric.pos -> number, list or nil", summary = "The positions as they were given; nil: the default." },
  { name = "metric.reference", signature = "metric.reference -> run or nil", summary = "The reference run of a kl metric." },
}
