/** What surrounds a network to make a denoiser of it, as data; `src/diffusion/preconditioning.ts` has the formulas. */

/** A preconditioning by name, with its constants (EDM, table 1). */
export type Preconditioning =
  | {
    /** EDM's own: unit variance of the network's input and target. */
    readonly kind: "edm";
    /** σ_d, the standard deviation of the data. */
    readonly sigmaData: number;
  }
  | {
    /** Variance preserving, for networks that predict noise at the times of a linear β schedule. */
    readonly kind: "vp";
    /** Extent of the schedule. */
    readonly betaD: number;
    /** Its slope at time 0. */
    readonly betaMin: number;
    /** Steps that DDPM divides it into. */
    readonly M: number;
    /** The earliest time. */
    readonly epsilonT: number;
  }
  | {
    /** Variance exploding, for networks that predict noise from unscaled images. */
    readonly kind: "ve";
  };

/** EDM's with its constant. */
export const EDM_PRECONDITIONING: Preconditioning = { kind: "edm", sigmaData: 0.5 };

/** The variance preserving one with EDM's constants. */
export const VP_PRECONDITIONING: Preconditioning = {
  kind: "vp",
  betaD: 19.9,
  betaMin: 0.1,
  M: 1000,
  epsilonT: 1e-5,
};

/** The variance exploding one. */
export const VE_PRECONDITIONING: Preconditioning = { kind: "ve" };
