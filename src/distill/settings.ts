/** Settings of a distillation's programs. */

import type { BregmanSettings } from "../graph/mod.ts";
import type { LogNormalLaw } from "../diffusion/teacher.ts";

/** What the generator minimises: a Bregman divergence, SiD's loss with α = 1, or the adversarial term alone. */
export const OBJECTIVES = ["bregman", "sid", "gan"] as const;

/** See {@linkcode OBJECTIVES}. */
export type Objective = typeof OBJECTIVES[number];

/**
 * How the divergence's gradient is had: from the difference of the denoised images, or through the classifier, whose
 * logit's gradient is the same difference where it is exact.
 */
export const GRADIENT_FORMS = ["score", "classifier"] as const;

/** See {@linkcode GRADIENT_FORMS}. */
export type GradientForm = typeof GRADIENT_FORMS[number];

/**
 * The weight w(σ) of a noise level: `dmd` is σ² / mean|x − D_teacher| of the sample (DMD's normaliser), `sigma2` is σ²
 * (Diff-Instruct's), `edm` is σ² λ(σ) with the weight λ of EDM's loss, `none` is 1. Under SiD's loss w(σ)/σ² is the factor on
 * the product of the differences of denoised images.
 */
export const WEIGHTINGS = ["dmd", "sigma2", "edm", "none"] as const;

/** See {@linkcode WEIGHTINGS}. */
export type Weighting = typeof WEIGHTINGS[number];

/**
 * The weight of the squared error of the fake score's denoised images: `edm` is 1/c_out² (EDM's loss), `noise` is 1/σ²,
 * which makes it the error of the predicted noise, `none` is 1.
 */
export const FAKE_WEIGHTINGS = ["edm", "noise", "none"] as const;

/** See {@linkcode FAKE_WEIGHTINGS}. */
export type FakeWeighting = typeof FAKE_WEIGHTINGS[number];

/** Laws of the noise levels at which student and teacher are compared. */
export const SIGMA_LAWS = ["karras", "log-normal"] as const;

/** The law of σ: uniform on the lower `range` of Karras's schedule, or ln σ ~ N(mean, std²). */
export interface SigmaLaw extends LogNormalLaw {
  /** Which of the two. */
  readonly law: typeof SIGMA_LAWS[number];
  /** Share of Karras's schedule, from its low end; of `karras` alone. */
  readonly range: number;
}

/**
 * What tells the data set's images from generated ones: `own` is an encoder of its own; `teacher-heads` are heads on every level of the frozen
 * teacher's encoder; `fake-head` is a head on the fake score's lowest map, and `fake-mean` is that map's mean, without
 * parameters: both train the fake score's encoder and share its forward pass.
 */
export const CLASSIFIERS = ["own", "teacher-heads", "fake-head", "fake-mean"] as const;

/** See {@linkcode CLASSIFIERS}. */
export type ClassifierKind = typeof CLASSIFIERS[number];

/** Losses of the classifier; of `hinge` there is no density ratio to be had. */
export const CLASSIFIER_LOSSES = ["logistic", "least-squares", "hinge"] as const;

/** See {@linkcode CLASSIFIER_LOSSES}. */
export type ClassifierLoss = typeof CLASSIFIER_LOSSES[number];

/** Settings of the classifier's function and loss. */
export interface ClassifierSettings {
  /** What it is. */
  readonly kind: ClassifierKind;
  /** What it minimises. */
  readonly loss: ClassifierLoss;
  /** Weight of that in the fake score's loss where they share an encoder. */
  readonly trunkWeight: number;
  /** Weight of the approximate R1 penalty, the squared change of its result under noise on real images; 0 for none. */
  readonly r1Weight: number;
  /** Standard deviation of that noise, in units of the network's input. */
  readonly r1Sigma: number;
}

/** Settings of the ratio's normalisation by noise level. */
export interface RatioBinSettings {
  /** Bins of equal width in ln σ, in each of which 1/r is divided by its running mean; 0 for none. */
  readonly bins: number;
  /** Images after which the share of an old mean has halved. */
  readonly binHalfLife: number;
}

/** Settings of the programs of a distillation's step. */
export interface DistillSettings {
  /** Images a step. */
  readonly batch: number;
  /** What is minimised. */
  readonly objective: Objective;
  /** How its gradient is had; of `bregman` alone. */
  readonly form: GradientForm;
  /** Noise level of the generator's input. */
  readonly sigmaInit: number;
  /** Noise levels to which its results are brought again, descending; empty for one step. */
  readonly laterSigmas: readonly number[];
  /** Classifier-free guidance of a teacher of classes; 1 for none. */
  readonly guidance: number;
  /** Shares of the classes among the generator's samples, as among the real ones; equal when absent. */
  readonly classShares?: readonly number[] | undefined;
  /** w(σ). */
  readonly weighting: Weighting;
  /** Law of the σ at which the generator's samples are judged, and with them an `own` or `teacher-heads` classifier's. */
  readonly sigma: SigmaLaw;
  /** Weight of the adversarial term; 0 for none. */
  readonly adversarialWeight: number;
  /** The fake score's loss. */
  readonly fakeScore: { readonly sigma: LogNormalLaw; readonly weighting: FakeWeighting };
  /** The classifier. */
  readonly classifier: ClassifierSettings;
  /** Normalisation of the ratio by noise level. */
  readonly ratioBins: RatioBinSettings;
  /** The divergence and its safeguards. */
  readonly bregman: BregmanSettings;
}

/** What a distillation needs beside the generator and the teacher. */
export interface Needs {
  /** A score of the generator's samples. */
  readonly fakeScore: boolean;
  /** A classifier. */
  readonly classifier: boolean;
  /** A density ratio. */
  readonly ratio: boolean;
}

/** True of the weighting of `kl`, c = 1: DMD's. */
export function weighsEvenly(h: object): boolean {
  return "kind" in h && h.kind === "kl";
}

/** What the objective, its weights and the classifier that shares the fake score's encoder make necessary. */
export function needs(
  { objective, form, adversarialWeight, classifier, bregman }:
    & Pick<DistillSettings, "objective" | "form" | "adversarialWeight" | "classifier">
    & { readonly bregman: { readonly h: object } },
): Needs {
  const told = objective === "bregman" && classifier.loss !== "hinge";
  const judged = adversarialWeight > 0 || (told && (form === "classifier" || !weighsEvenly(bregman.h)));
  const ratio = told && judged;
  const scored = objective === "sid" || (objective === "bregman" && form === "score");
  return { ratio, classifier: judged, fakeScore: scored || (judged && sharesEncoder(classifier)) };
}

/** True of classifiers that read the fake score's encoder. */
export function sharesEncoder({ kind }: Pick<ClassifierSettings, "kind">): boolean {
  return kind === "fake-head" || kind === "fake-mean";
}
