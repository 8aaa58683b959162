return {
  { name = "patchbay.attribution", summary = "What one gradient says about every cell: attribution patching, AtP*, integrated gradients, and their audit.",
    text = [[
local attribution = require "patchbay.attribution"

Two forward passes and one backward pass give an estimate for every cell of every site, where patching takes a pass per cell. The estimates
are changes of the metric (patched minus unpatched): they compare with set:sweep { ... }:change() on the same axes, and grid:recovered() gives
shares. They are first-order: exact where the metric is linear in what is patched, wrong where a norm, a softmax or an activation saturates. How
wrong, attribution.audit says for the table at hand.

All take a set of pairs (or { clean = run, corrupt = run }) and give the mean over pairs with its standard error; grid.parts has each pair's.
site, over and coordinates are those of set:sweep; without over it is layer and head, neuron, or position, by the site. An axis that is not in
over is summed over, or over the coordinates given for it. Entries may be groups and names of positions. k and v have key-value heads.]],
    example = [[
local attribution = require "patchbay.attribution"
local grid = attribution.patching(set, { site = "z", over = { "layer", "head" } })
print(attribution.audit(set, grid, { cells = 100 }))
local exact = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }:change()
pb.plot.scatter { x = exact, y = grid, identity = true }:save "scatter.png"]] },
  { name = "patchbay.attribution.patching",
    signature = "attribution.patching(set, { site =, over =, metric = \"logit_diff\", direction = \"denoising\", qk_fix = false, ... }) -> grid",
    summary = "Attribution patching (AtP): (other - own) times gradient, for every cell (Nanda 2023).",
    text = [[
direction: "denoising" takes the gradient on the corrupted run and asks what the clean values would do (as TransformerLens's
attribution_patch); "noising" the other way (as the AtP papers and EAP). Sites: any; pattern by "dest" and "src" or by rows ("dest").
qk_fix = true, for sites q and k: AtP*'s repair. The softmax is computed exactly with the query, or the one key, patched (for keys in O(1) for each
entry of the pattern), and only what comes after the pattern is linear. Attention that is saturated hides from the plain estimate.
query_heads = true (site k, grouped queries): one column for each query head instead of their sum. Other fields: layer, pos, head, neuron, dest, src, memory.]] },
  { name = "patchbay.attribution.every", signature = "attribution.every(set, { \"resid_pre\", { site = \"z\", over = { \"layer\", \"head\" } }, ... } [, options]) -> list of grids",
    summary = "Attribution patching at several sites, all from one reverse pass." },
  { name = "patchbay.attribution.gradient_x_input", signature = "attribution.gradient_x_input(set, { site =, over =, of = \"clean\", metric = }) -> grid",
    summary = "Value times gradient on one side of each pair." },
  { name = "patchbay.attribution.integrated",
    signature = "attribution.integrated(set, { site = \"embed\", over =, steps = 20, rule = \"midpoint\", baseline = \"other\", of = \"clean\", metric = }) -> grid, list",
    summary = "Integrated gradients along the line from a baseline to a site's value (Sundararajan et al. 2017).",
    text = [[
All positions of the site (in one layer, for sites in layers) move together from the baseline to the value that the run has; everything else is
the run's. (From "zero" at the stream itself the norms jump near the beginning: many steps.) baseline: "other" (the other prompt of the pair), "zero", or "mean" (over all positions of all prompts of that side). rule: "left",
"midpoint", "right", "trapezoid" or "gauss" (Gauss-Legendre, exact for polynomials of degree 2 * steps - 1).
Completeness: the scores of all entries add up to the metric's change from baseline to value, up to the error of the sum over steps. The second
result has it for each pair and layer: { pair, site, layer, sum, difference, error }; grid.about.completeness says the largest.
Cost: steps forward and backward passes for each pair and layer, in one batch.]],
    example = [[
local grid, check = attribution.integrated(set, { over = "pos", steps = 20 })
print(grid.about.completeness, check[1].sum, check[1].difference)]] },
  { name = "patchbay.attribution.star", signature = "attribution.star(set, { site =, over =, direction = \"noising\", qk_fix = true, metric = }) -> grid",
    summary = "AtP* (Kramár et al. 2024): QK fix, and GradDrop against effects that cancel. Never negative.",
    text = [[
The contribution of a cell in a pair is 1 / (L - 1) times the sum, over layers, of the size of its estimate without what the gradient gets through
that layer's attention and MLP; then the mean over pairs. L backward passes. To find what may matter, not how it acts: audit it with
absolute sizes (attribution.audit does so for these grids).]] },
  { name = "patchbay.attribution.graddrop", signature = "attribution.graddrop(set, { site =, over =, direction = \"noising\", qk_fix = true, metric = }) -> list of grids",
    summary = "The estimates without the gradient through one layer's attention and MLP, one grid for each layer.",
    text = "The gradient ends at attn_out and mlp_out of the layer (stop, see run:grad). The layer's own attn_out and mlp_out count 0." },
  { name = "patchbay.attribution.audit",
    signature = "attribution.audit(set, grid [, { cells = 200, listed =, strata = 5, seed =, confidence = 0.95, threshold =, absolute = false, ... }]) -> report",
    summary = "Exact patches of a sample of a table's cells: how far may the table be trusted?",
    text = [[
Any grid of scores whose cells can be patched: of attribution, of a probe, of attention weights. site, metric and direction are the grid's own
unless given. The `listed` cells with the largest scores (a quarter of `cells`) are all measured; the rest of the sample is drawn from strata of
falling size of score. Each measured cell counts for as many as its stratum has for each that was measured.

The report prints, and has: rank_correlation (Spearman), correlation, relative_error (sum of |estimate - exact| by sum of |exact|), sign_errors (share
of cells with an effect whose sign is wrong or missing), sign_errors_of_effect (the same, by size of effect), effect_in_listed (share of all effect),
each with intervals[name] = { low, high } by bootstrap within strata; and missed: among the cells that are not listed, found (of the sample) and
at_most (of all, with this confidence) that exceed threshold (default: the median effect of the listed ones); largest, the largest effect seen
among them, and larger_at_most, how many of all may exceed that. These bounds hold for any distribution: they are exact for drawing without
replacement (found > 0: divided among the strata by Bonferroni).
report.rows: { index, name, stratum, weight, estimate, exact }. Cells of a pattern that are masked are left out.]],
    example = [[
local report = attribution.audit(set, grid, { cells = 120, seed = 1 })
print(report)
report:figure():save "audit.png"
report:save "audit.csv"]] },
  { name = "patchbay.audit", summary = "The audit of any list of estimates, given a function that measures some of them exactly.",
    text = [[
audit.compare { estimates =, measure = function(indices) return values end, cells = 200, ... } -> report, as attribution.audit gives. Indices count from 0.]] },
  { name = "patchbay.audit.compare", signature = "audit.compare { estimates =, measure =, cells = 200, listed =, strata = 5, seed =, ... } -> report",
    summary = "Estimates against exact values of a stratified sample.", text = "name = function(index): what rows of the report are called. Other fields as in attribution.audit.",
    example = [[
local audit = require "patchbay.audit"
print(audit.compare { estimates = scores, cells = 100, measure = function(indices)
  local values = {}
  for i, k in ipairs(indices) do values[i] = effect_of(k) end
  return values
end })]] },
}
