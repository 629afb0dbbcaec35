/** A script did what Job DSL does not have, or what this project does not allow itself. */
class Refused extends RuntimeException {

    Refused(String message) {
        super(message)
    }

}
