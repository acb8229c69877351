"""What each family of operators computes, in TE, apart from how it is scheduled."""
