"""What every transport must do, case by case: one suite, one subclass for each transport."""
