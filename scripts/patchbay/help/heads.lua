return {
  { name = "patchbay.heads", summary = "What heads attend to and what their weights could do: scores, composition, circuits in words, induction.",
    text = [[
local heads = require "patchbay.heads"

Scores say where a head looks, weights what it could do; neither says what it does in a prompt. heads.induction adds the causal check.
On the built-in model the heads that read repeats attend to the second token after the earlier occurrence (offset[2]), not to the next
one: the usual induction score (offset[1]) finds none.

Where peers differ: TransformerLens's detect_head with error_measure "abs" rounds the mean distance to three decimals; here it is not rounded.
Composition and copying scores are of raw weights: no layer norm, no biases (load with fold_ln for scores of folded ones).]] },
  { name = "patchbay.heads.scores",
    signature = "heads.scores(model [, { seed =, n = 50, length = 16, offsets = 4, tokens =, sequences =, bos = }]) -> table of grids",
    summary = "Scores of every head on n sequences r + r of random tokens: grids [layer, head] with standard errors.",
    text = [[
All are means over destinations in the second r. previous, current, first: attention to the token before, to the token itself, to the prompt's first.
offset[k], k = 0 to offsets: attention to the k-th token after the earlier occurrence; the last `offsets` destinations are left out for every k, since
that token would not be in the first r. duplicate is offset[0], induction (prefix matching) offset[1]. entropy: of all rows, in nats. copying: heads.copying(model).
tokens: what to draw from, a list of ids or a set of pairs (the tokens of its clean prompts); by default whole words (a space and at least three letters),
where the model has a tokenizer. sequences: a list of lists of ids, all of one length, said twice instead of random ones (n, length, seed and tokens
are not used then). bos: as in model:run. Scores depend on all of these: longer sequences leave less attention for each token, and words that the
model seldom saw are matched less well.]] },
  { name = "patchbay.heads.induction",
    signature = "heads.induction(model [, { seed =, n = 20, length = 12, offsets = 4, least = 0.3, tokens =, sequences =, bos = }]) -> table",
    summary = "Find heads that read repeats and previous-token heads, and confirm each link by path patching.",
    text = [[
offset: the offset at which most heads attend with at least `least`; readers: those heads; previous: the previous-token heads. scores: as heads.scores (which
seed, offsets, tokens, sequences and bos go to). effect: over n pairs of tasks.induction (length, tokens, bos), a grid [sender, receiver], what each
previous-token head brings back through each reader's keys (path patching) of what is lost when the earlier occurrence is another word; links: the same
as a list { previous =, reader =, recovered =, se = }, the largest first. Without readers or previous-token heads, links is empty and effect absent.
A high previous-token score is no proof: in the built-in model head 0.2 has one and its links are negative.]] },
  { name = "patchbay.heads.attention", signature = "heads.attention(runs, { name = mask }) -> { name = grid [layer, head], entropy = grid }",
    summary = "The sum of pattern times a mask [dest, src], mean over runs of one length: the primitive of all scores." },
  { name = "patchbay.heads.mask", signature = "heads.mask(length, function(dest, src) return weight or nil end) -> tensor [length, length]",
    summary = "A mask for heads.attention, of every pair with src <= dest." },
  { name = "patchbay.heads.diagonal", signature = "heads.diagonal(length, back [, first [, last]]) -> tensor", summary = "The mask of the mean attention to the token `back` before, from dest `first` to `last`." },
  { name = "patchbay.heads.repeated", signature = "heads.repeated(model [, { seed =, n = 50, length = 16, tokens =, sequences =, bos = }]) -> runs, start, length",
    summary = "Runs on random tokens said twice; start is where the first time begins. Options as in heads.scores." },
  { name = "patchbay.heads.detect", signature = "heads.detect(run, \"previous_token\" | \"duplicate_token\" | \"induction\" | mask [, options]) -> grid [layer, head]",
    summary = "TransformerLens's detect_head on any prompt.",
    text = [[
measure: "mul" (the share of the attention that is in the mask) or "abs" (1 - the mean over rows of the distance to the mask). exclude_first,
exclude_current: leave out attention to the first token, to the token itself.]] },
  { name = "patchbay.heads.composition", signature = "heads.composition(model, \"Q\" | \"K\" | \"V\") -> grid [layer, head, later_layer, later_head]",
    summary = "Composition scores (Elhage et al. 2021): norm of the product over product of the norms; 0 where not later." },
  { name = "patchbay.heads.copying", signature = "heads.copying(model [, \"full_ov\" | \"ov\" | \"full_qk\"]) -> grid [layer, head]",
    summary = "Sum of eigenvalues over the sum of their sizes: near 1, the head copies.",
    text = "full_ov: of W_E W_V W_O W_U, tokens to tokens; ov: of W_V W_O; full_qk: of W_E W_Q W_K^T W_E^T (does a token attend to itself?)." },
  { name = "patchbay.heads.circuit", signature = "heads.circuit(model, layer, head, \"ov\" | \"qk\" [, { directions = 5, tokens = 5 }]) -> table",
    summary = "Singular value decomposition and eigenvalues of a head's OV or QK matrix, and its directions as tokens.",
    text = [[
u [d_model, d_head], s, v [d_head, d_model]: W_V W_O (ov) or W_Q W_K^T (qk) is u diag(s) v. eigenvalues [d_head, 2]. directions: a list of
{ strength =, reads =, writes = } (ov) or { strength =, query =, key = } (qk), tokens by their embedding or unembedding along the direction.]] },
  { name = "patchbay.heads.of", signature = "heads.of(model, layer) -> { W_Q =, W_K =, W_V =, W_O = }",
    summary = "Matrices of each head of queries (lists from 1); shared key-value heads are repeated." },
}
