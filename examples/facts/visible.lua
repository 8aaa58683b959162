-- The section "What is visible in it" of the model's README, measured again: causal tracing on its 100 facts, the indirect-object heads on its 369
-- pairs, the heads that read repeats on its 50 sequences (drawn with Python's and PyTorch's random numbers, as then).
-- The same of another model that learned the same corpus, with the tasks of "facts": model=facts-free.
--                                      patchbay run examples/facts/visible.lua [model=facts facts=100 samples=10]
local pb = require "patchbay"
local data, heads, lens, trace = require "patchbay.data", require "patchbay.heads", require "patchbay.lens", require "patchbay.trace"
local stats, rows, twister = require "patchbay.stats", require "rows", require "twister"
local arg = pb.params { model = "facts", facts = 100, samples = 10 }
local model, folder = pb.load(arg.model), pb.load("facts").folder
local found = {}

local function by_name(grid)
  local list = {}
  for _, cell in ipairs(grid:cells()) do list[("%d.%d"):format(cell.layer, cell.head)] = cell.value end
  return list
end

local function say(title, grid, k)
  local words = {}
  for i, cell in ipairs(grid:top(k)) do words[i] = ("%d.%d %.3f"):format(cell.layer, cell.head, cell.value) end
  print(("%-42s %s"):format(title, table.concat(words, "  ")))
end

-- ---- repeats: 50 sequences of 16 words said twice, behind <|endoftext|> -----------------------------------------------------------------

local rng, pool, sequences = twister.new(7), rows.word_ids(model.tokenizer), {}
for i = 1, 50 do sequences[i] = rng:sample(pool, 16) end
local scores = heads.scores(model, { sequences = sequences, bos = true, offsets = 3 })
say("attention to the token before", scores.previous, 4)
for k = 0, 3 do say(("attention to %d after the earlier occurrence"):format(k), scores.offset[k], 4) end
found.previous, found.offset = by_name(scores.previous), {}
for k = 0, 3 do found.offset[k + 1] = by_name(scores.offset[k]) end

-- ---- indirect objects -----------------------------------------------------------------------------------------------------------------

local ioi = data.pairs(model, "ioi", { quiet = true })
local pairs_list = {}
for i = 1, #ioi do -- the mentions of both names, by token
  local pair = ioi[i]
  local S, IO = pair.clean:find(pair.info.wrong, { which = "last" }), pair.clean:find(pair.info.answer, { which = "first" })
  pairs_list[i] = { clean = pair.clean, corrupt = pair.corrupt, answer = pair.answer, wrong = pair.wrong, positions = { S2 = S, IO = IO } }
end
local set = pb.pairs(model, pairs_list)
local parts = lens.attribution(set)
local patched = set:sweep { site = "z", over = { "layer", "head" }, metric = "logit_diff" }
local attention = stats.attention(set, { dest = "end", src = { "S2", "IO" }, heads = true })
say("direct logit attribution", parts.heads, 4)
say("patched from the clean run, share", patched:recovered(), 4)
say("attention from the end to S2", attention:select { src = "S2" }, 3)
say("attention from the end to IO", attention:select { src = "IO" }, 1)
found.ioi = { pairs = #set, clean = patched.target, corrupt = patched.base, attribution = by_name(parts.heads), mlps = parts.mlps.values:tolist(),
              patched = by_name(patched:recovered()), to_s2 = by_name(attention:select { src = "S2" }), to_io = by_name(attention:select { src = "IO" }) }
print(("mean logit difference %+.2f, %+.2f where the second subject is swapped; MLPs 4 and 5 %+.2f, %+.2f"):format(
  patched.target, patched.base, parts.mlps:get { layer = 4 }, parts.mlps:get { layer = 5 }))

-- ---- causal tracing -------------------------------------------------------------------------------------------------------------------

local records, subjects = {}, {}
for _, name in ipairs { "facts", "facts_all_templates" } do
  for _, row in ipairs(pb.read(("%s/tasks/%s.jsonl"):format(folder, name))) do
    if row.subject_tokens >= 2 and row.subject_tokens <= 6 then records[#records + 1] = row end
  end
end
twister.new(0):shuffle(records)
for i, fact in ipairs(pb.read(folder .. "/facts.json").facts) do subjects[i] = model:encode(" " .. fact.subject, { bos = false }) end
local facts = data.facts(model, table.move(records, 1, arg.facts, 1, {}), { unknown = "keep", quiet = true })
local sigma, normal = trace.sigma(model, subjects), twister.plain(0)
local function noise(tokens) return pb.tensor(normal:normal(tokens * model.d_model)):reshape(tokens, model.d_model) * (3 * sigma) end
local all = trace.average(model, facts, { noise = noise, samples = arg.samples, window = 3, unknown = "trace", each = "token" })
print(("%d facts, noise of 3 x %.4f: probability of the answer %.3f clean, %.3f noised"):format(all.n, sigma, all.high, all.low))
found.trace = { facts = all.n, sigma = sigma, high = all.high, low = all.low, counts = all.counts }
for _, kind in ipairs { "block", "mlp", "attn" } do
  print(kind)
  found.trace[kind] = {}
  for c, class in ipairs(all[kind].labels.class) do
    local values = all[kind].values:select(1, c - 1):tolist()
    found.trace[kind][c] = values
    local words = {}
    for l, value in ipairs(values) do words[l] = ("%5.2f"):format(value) end
    print(("  %-22s %s"):format(class, table.concat(words, " ")))
  end
end
pb.write("visible.json", found)
