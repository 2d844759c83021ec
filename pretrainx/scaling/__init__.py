"""Scaling-law experiments: plan many runs, run them, fit a law to what they reached, predict, write the next config.

Which file does what, by command:

    plan        study (config.study), plan (the command), planner (cells to runs), shapes, rates, guesses, grid, corpus, extend,
                cost_table; counting says what N and C are
    run         queue, claims (one process a run), workplaces (cores, devices), live, status, collect (the table of results),
                commands (Slurm, Ray), outcome (of a grid), version
    fit         fitting (the whole), fit_options, read_table, row_filters, refusals, outliers;
                approach 1: envelope; 2: isoflop, minimum; L(C): loss_curve; these share budgets, frontier_form, saturating;
                approach 3: parametric, laws, form, held, residuals, starts, optimise, diagnosis, projection, constrained;
                intervals: bootstrap, delta; cautions, fit_text, fit_file, presets
    predict     predictions, inverse, answers, holdout, ratio, next_config
    report      page, pictures
    coordcheck, lr_transfer    widths, coordinates, lr_transfer, check_page

What all of them hand to each other: manifest (the runs), table (what they reached), fits (what a fit is).
"""
