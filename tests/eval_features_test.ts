/** The feature network against the features PyTorch computed, and measures of images whose answer is known. */

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { loadDigits } from "../src/data/digits.ts";
import { Evaluator } from "../src/eval/evaluate.ts";
import { FeatureNetwork, FEATURES } from "../src/eval/feature_network.ts";
import { featureMoments } from "../src/eval/frechet.ts";
import { Workspace } from "../src/graph/mod.ts";
import { decodeNpz } from "../src/io/npz.ts";
import { gpuTest, relativeError } from "./gpu.ts";

gpuTest("feature network: PyTorch's features, mean and covariance of the real digits", async (gpu) => {
  const path = new URL("./fixtures/digits_features_io.npz", import.meta.url);
  const fixture = await decodeNpz(await Deno.readFile(path), "digits_features_io.npz");
  const workspace = new Workspace(gpu);
  const { pixels, count } = await loadDigits();
  const network = await FeatureNetwork.digits(workspace);
  const features = await network.features(pixels);
  const expected = fixture.features_first_16!.data as Float64Array;
  // The fixture's pixels are count/16, ours bytes: half a step of 1/255 on a value of about a half is 0.4 %.
  const first = relativeError(features.subarray(0, expected.length), expected);
  assert(first < 4e-3, `features: ${first}`);
  const { mean, covariance } = featureMoments(features, count, FEATURES);
  assert(relativeError(mean, fixture.mu!.data as Float64Array) < 1e-3);
  assert(relativeError(covariance, fixture.sigma!.data as Float64Array) < 4e-3);
  workspace.destroy();
});

gpuTest("evaluator: the real images are at distance 0 from themselves and cover everything", async (gpu) => {
  const workspace = new Workspace(gpu);
  const digits = await loadDigits();
  const evaluator = await Evaluator.create(workspace, digits);
  const own = await evaluator.measure(digits.pixels);
  assertEquals([own.samples, own.nearestDistance, own.coverage], [1797, 0, 1]);
  assertAlmostEquals(own.classError!, 0, 1e-12);
  assert(own.floor.classError! > 0.02 && own.floor.classError! < 0.04, String(own.floor.classError));
  assertAlmostEquals(own.frechetDistance, 0, 1e-3);
  // Resampling 1,797 of 1,797 is what the floor says it is.
  assert(own.floor.mean > 1 && own.floor.mean < 6, String(own.floor.mean));
  const blank = await evaluator.measure(new Uint8Array(100 * 64));
  assert(blank.frechetDistance > 500 && blank.coverage <= 1 / 1797 && blank.classError! > 0.85);
  workspace.destroy();
});
