-- The noise of causal tracing (ROME, experiments/causal_trace.py): what is added to the subject's token embeddings. Scales come from
-- the embeddings of a list of subjects, as the model really uses them (hook_embed: scaled where the model scales, without positions).
local pb = require "patchbay"

local noise = {}

-- The embedding rows of all tokens of the subjects (lists of ids), each token once: rows [tokens, d_model], counts [tokens].
local function rows_of(model, subjects)
  local count, ids = {}, {}
  for _, subject in ipairs(subjects) do
    for _, id in ipairs(subject) do
      if not count[id] then ids[#ids + 1] = id end
      count[id] = (count[id] or 0) + 1
    end
  end
  table.sort(ids)
  local longest, prompts, rows, counts = model.max_positions > 0 and math.min(model.max_positions, 256) or 256, {}, {}, {}
  for i, id in ipairs(ids) do
    if (i - 1) % longest == 0 then prompts[#prompts + 1] = {} end
    table.insert(prompts[#prompts], id)
    counts[i] = count[id]
  end
  for i, run in ipairs(model:runs(prompts)) do rows[i] = run["hook_embed"] end
  return pb.concat(rows), pb.tensor(counts)
end

-- noise.sigma(model, subjects): the standard deviation (n - 1) over all elements of all embedding rows, repeated tokens counted.
function noise.sigma(model, subjects)
  local rows, counts = rows_of(model, subjects)
  local n, weights = counts:sum() * model.d_model, counts:unsqueeze(1)
  local centre = (rows * weights):sum() / n
  return math.sqrt(((rows - centre):square() * weights):sum() / (n - 1))
end

-- Mean [d] and a square root [d, d] of the covariance of the rows: mean + normal draws x root has this mean and covariance.
local function gaussian(model, subjects)
  local rows, counts = rows_of(model, subjects)
  local n, weights = counts:sum(), counts:unsqueeze(1)
  local centre = (rows * weights):sum(0) / n
  local deviations = rows - centre
  local values, vectors = ((deviations * weights):transpose(0, 1):matmul(deviations) / (n - 1)):eigh()
  return centre, (vectors * values:maximum(0):sqrt()):transpose(0, 1):contiguous()
end

-- A level as text, for what files say of themselves.
function noise.text(level)
  return (type(level) == "string" or type(level) == "number") and tostring(level) or type(level) == "function" and "a function's" or "given as tensors"
end

-- noise.sampler(model, level, subjects, seed) -> function (tokens, draw) -> tensor [tokens, d_model]; and the scale, if that is one
-- number. subjects: a function that gives lists of ids. A draw of a seed is the same for every prompt with as many subject tokens.
function noise.sampler(model, level, subjects, seed)
  local d = model.d_model
  local function normal(tokens, draw) return pb.randn { tokens, d, seed = seed, draw = draw } end
  if type(level) == "function" then
    return level
  elseif type(level) == "table" then
    return function(_, draw) return level[draw + 1] or pb.fail("noise: %d tensors for draw %d", #level, draw) end
  elseif getmetatable(level) == "tensor" then
    return function(_, draw) return level:select(0, draw):contiguous() end
  end
  local kind, number = "plain", level
  if type(level) == "string" then
    kind, number = level:match "^([smtu])([%d.]*)$"
    number = tonumber(number) or (kind == "s" and 1 or nil)
  end
  if kind == "s" and number then
    local scale = number * noise.sigma(model, subjects())
    return function(tokens, draw) return normal(tokens, draw) * scale end, scale
  elseif kind == "plain" and type(number) == "number" and number > 0 then
    return function(tokens, draw) return normal(tokens, draw) * number end, number
  elseif kind == "u" and number and number > 0 then
    return function(tokens, draw) return pb.rand { tokens, d, seed = seed, draw = draw } * (2 * number) - number end
  elseif kind == "m" and not number then
    local centre, root = gaussian(model, subjects())
    return function(tokens, draw) return normal(tokens, draw):matmul(root) + centre end
  elseif kind == "t" and number and number > 2 and math.tointeger(number) then
    local centre, root = gaussian(model, subjects())
    return function(tokens, draw) -- one chi-square draw for each token; scaled so that the covariance is the embeddings'
      local chi2 = pb.randn { tokens, math.tointeger(number), seed = seed, draw = draw + (1 << 32) }:square():sum(1, true)
      return normal(tokens, draw):matmul(root) * ((number - 2) / chi2):sqrt() + centre
    end
  end
  pb.fail("noise: expected \"s3\" (3 standard deviations of the subjects' embeddings), \"m\" (multivariate Gaussian), \"t3\" (Student t, whole degrees " ..
          "above 2), \"u0.1\" (uniform in ±0.1), a positive number (standard deviation), a list of tensors or function(tokens, draw), got '%s'", tostring(level))
end

return noise
