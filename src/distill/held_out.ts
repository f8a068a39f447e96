/** What the classifier finds in images that it was not trained with, as a program. */

import { concat, type Program, randomNormal } from "../graph/mod.ts";
import { addNoise } from "../diffusion/edm.ts";
import { type ImageSource, stepLeaves } from "../diffusion/teacher.ts";
import { classifierOutput, readOut } from "./classifier.ts";
import type { DistillSettings } from "./settings.ts";
import { type DistillNetworks, generated, inputsOf, joined, noiseLevels, realImages, STREAM } from "./samples.ts";
import { limitedLogit } from "./generator.ts";

/**
 * Compiles what the classifier finds in `images`, which it was not trained with, and in as many generated ones, at noise
 * levels of the generator's law. Outputs, the real ones first: `sigma`, `logit` [2 N]; the logits are limited.
 */
export async function compileHeldOut(
  networks: DistillNetworks,
  images: ImageSource,
  settings: DistillSettings,
  batch: number,
): Promise<Program> {
  const leaves = stepLeaves();
  const draw = STREAM.held;
  const drawn = inputsOf(networks, settings, batch, leaves, "held");
  const real = realImages(networks, images, leaves, batch);
  const both = concat([real.images, generated(networks, drawn, settings)], 0);
  const sigma = noiseLevels(settings.sigma, (random) => random([2 * batch], leaves.random(draw.sigma)));
  const xt = addNoise(both, randomNormal(both.shape, leaves.random(draw.noise)), sigma);
  const { kind, loss } = settings.classifier;
  const conditions = joined([real.conditions, drawn.conditions]);
  const output = classifierOutput(kind, networks, { xt, sigma, conditions });
  const logit = limitedLogit(readOut(output, loss, settings.bregman.logitClamp)!, settings.bregman);
  return await networks.generator.workspace.compile({ label: "heldOut", outputs: { sigma, logit } });
}
