-- How the subject's states are filled and read (Geva et al. 2023, "Dissecting Recall of Factual Associations"): attention knock-out over
-- windows of layers, and what the states say through the unembedding, layer by layer.
local pb = require "patchbay"

local enrichment = {}

local BLOCKED = { "last reads subject", "subject reads itself", "last reads the rest" }

-- Which query (dest) may not read which key (src).
local function blocked_edges(kind, subject, last)
  if kind == "subject reads itself" then -- each token no earlier token of the subject; itself stays, or its row would be empty
    local edges = {}
    for i = 2, #subject do edges[#edges + 1] = { dest = subject[i], src = { table.unpack(subject, 1, i - 1) } } end
    return edges
  end
  local inside, rest = {}, {}
  for _, pos in ipairs(subject) do inside[pos] = true end
  for pos = 0, last - 1 do
    if not inside[pos] then rest[#rest + 1] = pos end
  end
  local src = kind == "last reads subject" and subject or rest
  if #src == 0 or src[#src] >= last then return {} end
  return { { dest = last, src = src } }
end

-- Facts of data.facts, or of one's own: { prompt =, subject =, answer = }; each with its run, the subject's positions and the answer's id.
local function facts_of(model, facts, name)
  local list = {}
  for i = 1, #facts do
    local fact = facts[i]
    local run = fact.run or (fact.prompt and model:run(fact.prompt)) or pb.fail("%s: fact %d is no { prompt =, subject =, answer = }", name, i)
    local answer = fact.answer
    if answer == nil then answer = run:top(1)[1].id end
    list[i] = { run = run, positions = fact.positions or type(fact.subject) == "table" and fact.subject or run:find(fact.subject),
                answer = type(answer) == "string" and model:token(answer) or answer }
  end
  return #list > 0 and list or pb.fail("%s: the list of facts is empty", name)
end

-- The last state of the residual stream replaced by an earlier one: the logit lens, with the model's own final norm and unembedding.
function enrichment.lens(run, site, layer, pos)
  return { { site = "resid_post", layer = run.model.layers - 1, pos = pos, from = run, from_site = site, from_layer = layer, from_pos = pos } }
end

-- A list of grids with equal axes, a part for each fact, from one flat tensor.
local function parts_of(values, n, shape, t)
  local parts, size = {}, 1
  for _, extent in ipairs(shape) do size = size * extent end
  for i = 1, n do
    local own = { values = values:narrow(0, (i - 1) * (size + 1), size):clone():reshape(shape), base = values:get((i - 1) * (size + 1) + size) }
    for key, value in pairs(t) do own[key] = value end
    parts[i] = pb.grid(own)
  end
  return pb.mean(parts)
end

-- enrichment.knockout(model, facts [, { window =, memory = }]) -> grid [blocked, layer] of the answer's probability; base: nothing blocked
function enrichment.knockout(model, facts, given)
  local o = pb.options(given, { "memory", window = 3 }, "trace.knockout")
  if math.type(o.window) ~= "integer" or o.window < 1 then pb.fail("trace.knockout: window must be a number of layers, got %s", tostring(o.window)) end
  if o.window > model.layers then pb.fail("trace.knockout: a window of %d layers is wider than the model, which has %d", o.window, model.layers) end
  facts = facts_of(model, facts, "trace.knockout")
  local requests = {}
  for _, fact in ipairs(facts) do
    local metric, last = pb.metric.prob(fact.answer), #fact.run - 1
    for _, kind in ipairs(BLOCKED) do
      local edges = blocked_edges(kind, fact.positions, last)
      for centre = 0, model.layers - 1 do
        local patches = {}
        for layer = math.max(0, centre - o.window // 2), math.min(model.layers, centre + (o.window + 1) // 2) - 1 do
          for _, edge in ipairs(edges) do
            patches[#patches + 1] = { site = "attn_scores", layer = layer, dest = edge.dest, src = edge.src, value = -math.huge }
          end
        end
        requests[#requests + 1] = { run = fact.run, patches = patches, metric = metric }
      end
    end
    requests[#requests + 1] = { run = fact.run, metric = metric }
  end
  local values = pb.measure(requests, { memory = o.memory, allow_unread = true })
  return parts_of(values, #facts, { #BLOCKED, model.layers },
    { axes = { "blocked", "layer" }, labels = { blocked = BLOCKED }, unit = "probability", metric = "prob of the answer",
      name = ("attention blocked, window of %d"):format(o.window),
      about = { model = model.name, facts = #facts, window = o.window, items = "facts", base_is = "nothing blocked" } })
end

-- enrichment.states(model, facts [, { memory = }]) -> { rank =, prob = }: grids [place, layer], what the state after each layer says about
-- the answer, at the subject's last token and at the last position; base: the model's own prediction at the end
function enrichment.states(model, facts, given)
  local o = pb.options(given, { "memory" }, "trace.states_say")
  local places, result = { "last subject token", "last token" }, {}
  facts = facts_of(model, facts, "trace.states_say")
  for _, kind in ipairs { "rank", "prob" } do
    local requests = {}
    for _, fact in ipairs(facts) do
      for _, pos in ipairs { fact.positions[#fact.positions], #fact.run - 1 } do
        local metric = pb.metric[kind](fact.answer, { pos = pos })
        for layer = 0, model.layers - 1 do
          requests[#requests + 1] = { run = fact.run, patches = enrichment.lens(fact.run, "resid_post", layer, pos), metric = metric }
        end
      end
      requests[#requests + 1] = { run = fact.run, metric = pb.metric[kind](fact.answer) }
    end
    result[kind] = parts_of(pb.measure(requests, { memory = o.memory, allow_unread = true }), #facts, { 2, model.layers },
      { axes = { "place", "layer" }, labels = { place = places }, unit = kind == "rank" and "rank" or "probability", metric = kind .. " of the answer",
        name = kind .. " through the unembedding",
        about = { model = model.name, facts = #facts, items = "facts", base_is = "at the end, after the last layer" } })
  end
  return result
end

-- enrichment.says(run, pos [, k]) -> list by layer of the k likeliest tokens of the state after the layer, as text
function enrichment.says(run, pos, k)
  local lines = {}
  for layer = 0, run.model.layers - 1 do
    local tokens = {}
    for i, token in ipairs(run:patched(enrichment.lens(run, "resid_post", layer, pos)):top(k or 5, { pos = pos })) do tokens[i] = token.token end
    lines[#lines + 1] = tokens
  end
  return lines
end

return enrichment
