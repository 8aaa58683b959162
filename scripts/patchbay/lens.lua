-- What the stream says before the end: logit lens (nostalgebraist 2020), tuned lens (Belrose et al. 2023; patchbay.tuned_lens), direct
-- logit attribution (patchbay.residual), attention rollout (Abnar and Zuidema 2020), the prompts that excite a neuron most.
-- The lens is a patch: the last stream gets an earlier one's value, and the model's own norm and unembedding do the rest.
local pb = require "patchbay"
local cells = require "patchbay.cells"
local lens = { train = require "patchbay.tuned_lens" }
for _, module in ipairs { require "patchbay.residual", require "patchbay.flow" } do
  for name, fn in pairs(module) do lens[name] = fn end
end

-- The variants of a lens: the stream before layer 0, 1, ..., and the last one as it is. tuned: translators from lens.train.
local function variants(run, tuned)
  local list = {}
  for layer = 0, run.model.layers - 1 do
    local patch = { site = "resid_post", layer = -1, from = run, from_site = "resid_pre", from_layer = layer }
    if tuned then patch = { site = "resid_post", layer = -1, value = tuned:translate(run:value("resid_pre", layer), layer) } end
    list[layer + 1] = { patch }
  end
  list[#list + 1] = {}
  return list
end

local function check_run(run, name)
  if getmetatable(run) ~= "run" then pb.fail("%s: the first argument must be a run", name) end
  return run
end

-- lens.logits(run [, { tuned = }]) -> tensor [layers + 1, pos, vocab]
function lens.logits(run, given)
  local o, list = pb.options(given, { "tuned" }, "lens.logits"), {}
  for i, captured in ipairs(check_run(run, "lens.logits"):capture(variants(run, o.tuned), "logits", { allow_unread = true })) do list[i] = captured.logits end
  return pb.stack(list)
end

-- lens.grid(run, { metric = "prob" | "logit" | "log_prob" | "rank" | "logit_diff" | "kl", answer =, wrong =, pos = "all" | list, tuned = }) -> grid [layer, pos]
-- layer l: before layer l; the last row is the model's own prediction. kl: from that prediction.
function lens.grid(run, given)
  local o = pb.options(given, { "answer", "wrong", "tuned", metric = "prob", pos = "all" }, "lens.grid")
  pb.one_of(o.metric, { "prob", "logit", "log_prob", "rank", "logit_diff", "kl" }, "lens.grid: metric")
  if o.metric ~= "kl" and o.answer == nil then pb.fail("lens.grid: the metric %s needs answer, a token", o.metric) end
  local positions, requests, labels, layers, rows = {}, {}, {}, {}, {}
  for p = 0, check_run(run, "lens.grid").length - 1 do positions[p + 1] = p end
  if o.pos ~= "all" then positions = type(o.pos) == "table" and o.pos or { o.pos } end
  for i, p in ipairs(positions) do positions[i] = p < 0 and p + #run or p end
  for i, p in ipairs(positions) do labels[i] = run.labels[p + 1] or pb.fail("lens.grid: position %d is not in a prompt of %d tokens", p, #run) end
  for layer, variant in ipairs(variants(run, o.tuned)) do
    layers[layer], rows[layer] = layer - 1, layer > run.model.layers and "end" or tostring(layer - 1)
    for _, p in ipairs(positions) do
      local at = { pos = p }
      local metric = o.metric == "kl" and pb.metric.kl(run, at) or o.metric == "logit_diff" and pb.metric.logit_diff(o.answer, o.wrong, at)
                     or pb.metric[o.metric](o.answer, at)
      requests[#requests + 1] = { run = run, patches = variant, metric = metric }
    end
  end
  return pb.grid { values = pb.measure(requests, { allow_unread = true }):reshape { #layers, #positions }, axes = { "layer", "pos" },
                   coords = { layer = layers, pos = positions }, labels = { layer = rows, pos = labels }, unit = cells.unit { kind = o.metric } .. (o.metric == "kl" and ", nats" or ""), metric = o.metric,
                   name = (o.tuned and "tuned" or "logit") .. " lens", about = { model = run.model.name, prompt = run.text } }
end

-- lens.top(run [, { k = 5, pos = -1, tuned = }]) -> a list for each layer of { token =, id =, prob = }
function lens.top(run, given)
  local o = pb.options(given, { "tuned", k = 5, pos = -1 }, "lens.top")
  local out, logits, model = {}, lens.logits(run, { tuned = o.tuned }), run.model
  for layer = 0, model.layers do
    local row, list = logits:select(0, layer):select(0, o.pos < 0 and o.pos + #run or o.pos), {}
    local probs, _, ids = row:softmax(0), row:topk(o.k)
    for i, id in ipairs(ids:tolist()) do
      id = math.tointeger(id)
      list[i] = { id = id, token = model.has_tokenizer and model:label(id) or tostring(id), prob = probs:get(id) }
    end
    out[layer + 1] = list
  end
  return out
end

return lens
