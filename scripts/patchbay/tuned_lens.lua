-- The tuned lens (Belrose et al. 2023): for each layer an affine translator, stream + stream A + b, after which the model's own final norm
-- and unembedding predict what the model will say. Trained as in the paper, by gradient descent on the KL divergence from the model's
-- prediction to the lens's; the gradient by the translated stream is the engine's reverse pass through norm and unembedding.
-- lens.train is this file's function.
local pb = require "patchbay"

local Tuned = {}
Tuned.__index = Tuned
Tuned.__name = "tuned lens"

function Tuned:translate(stream, layer) return stream + stream:matmul(self.A[layer + 1]) + self.b[layer + 1] end

-- The lens is a patch: the last stream is what the translator makes of an earlier one.
local function patched(tuned, run, layer)
  return { { site = "resid_post", layer = -1, value = tuned and tuned:translate(run:value("resid_pre", layer), layer) or run:value("resid_pre", layer) } }
end

-- KL divergence from the model's prediction, all positions of a run, mean over runs: grid [lens, layer]. lenses: { { name, tuned or false }, ... }
local function quality(model, runs, lenses)
  local requests, parts, names = {}, {}, {}
  for k, entry in ipairs(lenses) do names[k] = entry[1] end
  for _, run in ipairs(runs) do
    for _, entry in ipairs(lenses) do
      for layer = 0, model.layers - 1 do
        requests[#requests + 1] = { run = run, patches = patched(entry[2], run, layer), metric = pb.metric.kl(run, { pos = "all" }) }
      end
    end
  end
  local values = pb.measure(requests, { allow_unread = true }):reshape { #runs, #lenses, model.layers }
  for i = 1, #runs do
    parts[i] = pb.grid { values = values:select(0, i - 1):clone(), axes = { "lens", "layer" }, labels = { lens = names }, unit = "KL divergence, nats",
                         about = { model = model.name, items = "prompts" } }
  end
  return pb.mean(parts)
end

-- tuned:quality(runs) -> grid [lens, layer] of the logit lens and this one
function Tuned:quality(runs) return quality(self.model, runs, { { "logit lens", false }, { "tuned lens", self } }) end

-- The translator that changes nothing: the logit lens.
local function identity(model)
  local tuned = setmetatable({ model = model, A = {}, b = {} }, Tuned)
  for layer = 1, model.layers do tuned.A[layer], tuned.b[layer] = pb.zeros { model.d_model, model.d_model }, pb.zeros { model.d_model } end
  return tuned
end

-- In one step: the translator that comes nearest to the last stream (least squares; ridge: the penalty on A, as a share of the stream's
-- mean square). Near in distance is not near in prediction: a start for training, not the tuned lens.
local function least_squares(model, runs, ridge)
  local tuned = identity(model)
  local function all(site, layer)
    local list = {}
    for i, run in ipairs(runs) do list[i] = run:value(site, layer) end
    return pb.concat(list, 0)
  end
  local last = all("resid_post", model.layers - 1)
  for layer = 0, model.layers - 1 do
    local x = all("resid_pre", layer)
    local y, mean_x = last - x, x:mean(0)
    local mean_y = y:mean(0)
    x, y = x - mean_x, y - mean_y
    local xt = x:transpose(0, 1):contiguous()
    local gram, penalty = xt:matmul(x), ridge * x:square():mean() * x.shape[1]
    for i = 0, model.d_model - 1 do gram:set(i, i, gram:get(i, i) + penalty) end
    tuned.A[layer + 1] = gram:solve(xt:matmul(y))
    tuned.b[layer + 1] = mean_y - mean_x:matmul(tuned.A[layer + 1])
  end
  return tuned
end

-- The gradients of the mean KL over these runs by A and b of every layer.
local function gradients(tuned, runs)
  local model, requests, by_A, by_b = tuned.model, {}, {}, {}
  local last = ("blocks.%d.hook_resid_post"):format(model.layers - 1)
  for layer = 0, model.layers - 1 do
    for _, run in ipairs(runs) do
      requests[#requests + 1] = { run = run, patches = patched(tuned, run, layer), metric = pb.metric.kl(run, { pos = "all" }), sites = { last }, weight = 1 / #runs }
    end
  end
  local all = pb.grad(requests)
  for layer = 1, model.layers do
    local x, g = {}, {}
    for i, run in ipairs(runs) do x[i], g[i] = run:value("resid_pre", layer - 1), all[(layer - 1) * #runs + i][last] end
    local X, G = pb.concat(x, 0), pb.concat(g, 0)
    by_A[layer], by_b[layer] = X:transpose(0, 1):matmul(G), G:sum(0)
  end
  return by_A, by_b
end

-- One step of Adam (Kingma and Ba 2015) with decoupled decay; state keeps both moments.
local function adam(weight, gradient, state, t, rate, decay)
  state.m = state.m and state.m * 0.9 + gradient * 0.1 or gradient * 0.1
  state.v = state.v and state.v * 0.999 + gradient:square() * 0.001 or gradient:square() * 0.001
  weight:mul_(1 - rate * decay):sub_(state.m / (1 - 0.9 ^ t) / ((state.v / (1 - 0.999 ^ t)):sqrt() + 1e-8) * rate)
end

-- lens.train(model, runs [, { start = "least_squares" | "identity", steps = 100, rate = 0.005, batch = 16, decay = 0.1, ridge = 0.1, held_out = runs,
-- seed = }]) -> tuned, with .report (grid [lens, layer]: KL of the logit lens, of the start and after training, on runs kept out of training)
return function(model, runs, given)
  local o = pb.options(given, { "held_out", start = "least_squares", steps = 100, rate = 0.005, batch = 16, decay = 0.1, ridge = 0.1, seed = pb.seed }, "lens.train")
  pb.one_of(o.start, { "least_squares", "identity" }, "lens.train: start")
  if math.type(o.steps) ~= "integer" or o.steps < 0 then pb.fail("lens.train: steps must be a number of steps, 0 or more, got %s", tostring(o.steps)) end
  if math.type(o.batch) ~= "integer" or o.batch < 1 then pb.fail("lens.train: batch must be a number of runs, got %s", tostring(o.batch)) end
  local kept, held_out, tokens = {}, o.held_out or {}, 0
  for i, run in ipairs(runs) do
    if not o.held_out and i % 5 == 0 then held_out[#held_out + 1] = run else kept[#kept + 1], tokens = run, tokens + #run end
  end
  if tokens < 2 then pb.fail "lens.train needs runs with more than one token" end
  if #held_out == 0 then pb.fail("lens.train: %d runs leave none for its report: give at least five, or held_out = other runs", #runs) end
  local tuned = o.start == "identity" and identity(model) or least_squares(model, kept, o.ridge)
  local start, states = { model = model, A = {}, b = {} }, {}
  for layer = 1, model.layers do
    start.A[layer], start.b[layer], states[layer] = tuned.A[layer]:clone(), tuned.b[layer]:clone(), { A = {}, b = {} }
  end
  local order, at = {}, 0
  for t = 1, o.steps do
    local batch = {}
    while #batch < math.min(o.batch, #kept) do
      if at == #order then order, at = require "patchbay.records".shuffled(#kept, o.seed, t), 0 end
      at = at + 1
      batch[#batch + 1] = kept[order[at]]
    end
    local by_A, by_b = gradients(tuned, batch)
    local rate = o.rate * (1 - (t - 1) / o.steps) -- falls to nothing in a straight line
    for layer = 1, model.layers do
      adam(tuned.A[layer], by_A[layer], states[layer].A, t, rate, o.decay)
      adam(tuned.b[layer], by_b[layer], states[layer].b, t, rate, 0)
    end
  end
  tuned.report = quality(model, held_out, { { "logit lens", false }, { "start", setmetatable(start, Tuned) }, { "tuned lens", tuned } })
  return tuned
end
