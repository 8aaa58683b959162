-- Attention rollout (Abnar and Zuidema 2020), and the prompts that excite a neuron most; part of patchbay.lens.
local pb = require "patchbay"

local flow = {}

-- lens.rollout(run [, { residual = 0.5, layers = }]) -> grid [dest, src]: patterns, mean over heads, mixed with the identity and multiplied up
function flow.rollout(run, given)
  if getmetatable(run) ~= "run" then pb.fail "lens.rollout: the first argument must be a run" end
  local o = pb.options(given, { residual = 0.5, layers = run.model.layers }, "lens.rollout")
  if type(o.residual) ~= "number" or o.residual < 0 or o.residual > 1 then pb.fail("lens.rollout: residual must be a share from 0 to 1, got %s", tostring(o.residual)) end
  local through, eye = nil, pb.zeros { #run, #run }
  for p = 0, #run - 1 do eye:set(p, p, 1) end
  for layer = 0, o.layers - 1 do
    local step = run:value("pattern", layer):mean(0) * (1 - o.residual) + eye * o.residual
    through = through and step:matmul(through) or step
  end
  return pb.grid { values = through, axes = { "dest", "src" }, labels = { dest = run.labels, src = run.labels }, unit = "rollout", name = "attention rollout",
                   about = { model = run.model.name, prompt = run.text } }
end

-- lens.examples(model, prompts, { layer =, neuron =, k = 10, batch = 32 }) -> list of { value =, prompt =, pos =, token =, run = }, the largest first
function flow.examples(model, prompts, given)
  local o, best = pb.options(given, { "layer", "neuron", k = 10, batch = 32 }, "lens.examples"), {}
  if not o.layer or not o.neuron then pb.fail "lens.examples needs layer and neuron" end
  prompts = require "patchbay.means".prompts(prompts, "lens.examples")
  for first = 1, #prompts, o.batch do
    for i, run in ipairs(require "patchbay.means".runs(model, { table.unpack(prompts, first, math.min(first + o.batch - 1, #prompts)) })) do
      local values = run[{ site = "mlp_post", layer = o.layer, neuron = o.neuron }]:reshape(-1)
      local top, places = values:topk(math.min(o.k, #run))
      for j, pos in ipairs(places:tolist()) do
        pos = math.tointeger(pos)
        best[#best + 1] = { value = top:get(j - 1), prompt = first + i - 1, pos = pos, token = run.labels[pos + 1], run = run }
      end
    end
    table.sort(best, function(a, b)
      if a.value ~= b.value then return a.value > b.value end
      return a.prompt < b.prompt or (a.prompt == b.prompt and a.pos < b.pos)
    end)
    for j = #best, o.k + 1, -1 do best[j] = nil end
  end
  return best
end

return flow
