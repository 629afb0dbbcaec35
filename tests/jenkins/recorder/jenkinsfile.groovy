/*
 * Reads Jenkinsfiles as declarative pipelines are read, and tells what Jenkins would do with them.
 *
 * Reads one request a line, {"script": text, "builds": [each with the `params`, `env` and `causes` of
 * a build]}, and answers each with a line: {"lines": [all that is given to a shell], "builds": [what
 * each comes to]}, or {"refused": why Jenkins would not take it}.
 *
 * First the whole of it is checked, what no build comes to included: the tables below are all that is
 * known, and whatever else stands in the file is an error with its line. Then it is evaluated. What
 * the steps and directives take is in https://www.jenkins.io/doc/book/pipeline/syntax/ and
 * https://www.jenkins.io/doc/pipeline/steps/.
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.ast.ClassCodeVisitorSupport
import org.codehaus.groovy.ast.ClassNode
import org.codehaus.groovy.ast.expr.BinaryExpression
import org.codehaus.groovy.ast.expr.ClosureExpression
import org.codehaus.groovy.ast.expr.ConstantExpression
import org.codehaus.groovy.ast.expr.ConstructorCallExpression
import org.codehaus.groovy.ast.expr.Expression
import org.codehaus.groovy.ast.expr.GStringExpression
import org.codehaus.groovy.ast.expr.MethodCallExpression
import org.codehaus.groovy.ast.expr.VariableExpression
import org.codehaus.groovy.ast.stmt.BlockStatement
import org.codehaus.groovy.ast.stmt.ExpressionStatement
import org.codehaus.groovy.ast.stmt.Statement
import org.codehaus.groovy.classgen.GeneratorContext
import org.codehaus.groovy.control.CompilePhase
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.SourceUnit
import org.codehaus.groovy.control.customizers.CompilationCustomizer

/** The form of the file: which directive or step may stand where. */
class Form {

    // What may stand in a block, and which block it opens; null where it opens none.
    static final Map<String, Map<String, String>> BLOCKS = [
        pipeline: [
            agent: 'agent', options: 'options', triggers: 'triggers', environment: 'environment',
            stages: 'stages', post: 'post',
        ],
        agent: [label: null],
        options: [disableConcurrentBuilds: null, timeout: null, timestamps: null],
        triggers: [cron: null, pollSCM: null],
        stages: [stage: 'stage'],
        stage: [when: 'when', environment: 'environment', stages: 'stages', steps: 'steps'],
        when: [not: 'when', equals: null],
        post: [always: 'steps', cleanup: 'steps'],
        steps: [
            archiveArtifacts: null, deleteDir: null, input: null, junit: null, publishHTML: null,
            sh: null, withCredentials: 'steps',
        ],
    ]

    // What may stand there more than once.
    static final Set<String> REPEATED = ['stages', 'options', 'triggers', 'steps']

    // What each block has to have.
    static final Map<String, List<String>> REQUIRED = [pipeline: ['agent', 'stages'], agent: ['label']]

    static void check(Statement statement) {
        MethodCallExpression call = call(statement, 'the file')
        block('pipeline', body(call), call.lineNumber)
    }

    static void block(String kind, BlockStatement block, int line) {
        if (kind == 'environment') {
            block.statements.each { each -> variable(each) }
            return
        }
        if (!block.statements) {
            throw new Refused("line ${line}: nothing is in `${kind}`")
        }
        List<String> names = block.statements.collect { each -> statement(kind, each) }
        REQUIRED.getOrDefault(kind, []).each { name ->
            if (!(name in names)) {
                throw new Refused("line ${line}: `${kind}` has no `${name}`")
            }
        }
        if ('when' in names && names.first() != 'when') {
            throw new Refused("line ${line}: `when` is decided first, and does not stand first")
        }
        if (!(kind in REPEATED) && names.toSet().size() != names.size()) {
            throw new Refused("line ${line}: something is in `${kind}` twice")
        }
        if (kind == 'stage' && names.count { name -> name in ['stages', 'steps'] } != 1) {
            throw new Refused("line ${line}: a stage has either `steps` or `stages`")
        }
    }

    private static String statement(String kind, Statement statement) {
        MethodCallExpression call = call(statement, "`${kind}`")
        String name = call.methodAsString
        Map<String, String> known = BLOCKS[kind]
        if (!known.containsKey(name)) {
            throw new Refused("line ${call.lineNumber}: `${name}` is not known in `${kind}`")
        }
        BlockStatement inner = body(call)
        if ((known[name] == null) != (inner == null)) {
            throw new Refused("line ${call.lineNumber}: `${name}` ${inner ? 'takes no' : 'needs a'} block")
        }
        if (inner != null) {
            block(known[name], inner, call.lineNumber)
        }
        name
    }

    private static void variable(Statement statement) {
        Expression set = statement instanceof ExpressionStatement ? statement.expression : null
        if (!(set instanceof BinaryExpression) || set.operation.text != '=' ||
            !(set.leftExpression instanceof VariableExpression)) {
            throw new Refused("line ${statement.lineNumber}: `environment` holds NAME = VALUE alone")
        }
        Expression value = set.rightExpression
        boolean text = value instanceof ConstantExpression && value.value instanceof String
        if (!text && !(value instanceof GStringExpression)) {
            throw new Refused("line ${statement.lineNumber}: a value in `environment` is a text in quotes")
        }
    }

    private static MethodCallExpression call(Statement statement, String where) {
        Expression call = statement instanceof ExpressionStatement ? statement.expression : null
        if (!(call instanceof MethodCallExpression) || !call.implicitThis || !call.methodAsString) {
            throw new Refused("line ${statement.lineNumber}: ${where} holds directives and steps alone")
        }
        call
    }

    private static BlockStatement body(MethodCallExpression call) {
        List<Expression> arguments = call.arguments.expressions
        Expression last = arguments ? arguments.last() : null
        last instanceof ClosureExpression ? last.code as BlockStatement : null
    }

}

/** Checks the form while the file is compiled, and lists the lines for the shell. */
class Reader extends CompilationCustomizer {

    final List<Map> lines = []

    Reader() {
        super(CompilePhase.CONVERSION)
    }

    @Override
    void call(SourceUnit source, GeneratorContext context, ClassNode node) {
        if (!node.script) {
            throw new Refused("line ${node.lineNumber}: a class is no part of a Jenkinsfile")
        }
        List<Statement> statements = source.AST.statementBlock.statements
        if (statements.size() != 1) {
            throw new Refused('the file holds one `pipeline` and functions, and nothing else')
        }
        Form.check(statements.first())
        List<Map> found = lines
        ClassCodeVisitorSupport visitor = new ClassCodeVisitorSupport() {

            @Override
            void visitMethodCallExpression(MethodCallExpression call) {
                String name = call.methodAsString
                if (name == null || name in ['evaluate', 'load', 'invokeMethod', 'execute']) {
                    throw new Refused("line ${call.lineNumber}: code from elsewhere is not run")
                }
                if (name == 'sh') {
                    List<Expression> arguments = call.arguments.expressions
                    boolean constant = arguments.size() == 1 && arguments[0] instanceof ConstantExpression
                    found << [line: call.lineNumber, text: constant ? arguments[0].value : null]
                }
                // Every object has a method of this name.
                if (name == 'equals' && call.implicitThis) {
                    call.method = new ConstantExpression('isEqual')
                }
                super.visitMethodCallExpression(call)
            }

            @Override
            void visitConstructorCallExpression(ConstructorCallExpression call) {
                throw new Refused("line ${call.lineNumber}: nothing is constructed in a Jenkinsfile")
            }

            @Override
            protected SourceUnit getSourceUnit() {
                source
            }

        }
        statements.each { each -> each.visit(visitor) }
        source.AST.methods.each { each -> each.code.visit(visitor) }
    }

}

/** Checks arguments against the names and types that a step or directive takes. */
class Arguments {

    static Map<String, Object> named(String what, Map<String, Object> given, Map<String, Class> known,
                                     List<String> required = []) {
        required.each { name ->
            if (given[name] == null) {
                throw new Refused("`${what}` needs `${name}`")
            }
        }
        given.collectEntries { name, value ->
            if (!known.containsKey(name)) {
                throw new Refused("`${what}` takes no `${name}`")
            }
            Object plain = value instanceof GString ? value.toString() : value
            if (!known[name].isInstance(plain)) {
                throw new Refused("`${name}` of `${what}` is no ${known[name].simpleName}")
            }
            [name, plain]
        }
    }

}

/** Anything that is entered with a closure. */
abstract class Block {

    protected final Build build

    protected Block(Build build) {
        this.build = build
    }

    protected void enter(Closure body, Object block) {
        body.delegate = block
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body.call()
    }

}

/** What is recorded of one build. */
class Build {

    final Map<String, Object> record = [
        options: [:], triggers: [:], environment: [:], stages: [], post: [:],
    ]
    final Map<String, String> variables

    Build(Map<String, String> variables) {
        this.variables = variables
    }

}

class Pipeline extends Block {

    Pipeline(Build build) {
        super(build)
    }

    void agent(Closure body) {
        enter(body, new Agent(build))
    }

    void options(Closure body) {
        enter(body, new Options(build))
    }

    void triggers(Closure body) {
        enter(body, new Triggers(build))
    }

    void environment(Closure body) {
        enter(body, new Environment(build, build.record.environment))
        build.variables.putAll(build.record.environment)
    }

    void stages(Closure body) {
        enter(body, new Stages(build, []))
    }

    void post(Closure body) {
        enter(body, new Post(build))
    }

}

class Agent extends Block {

    Agent(Build build) {
        super(build)
    }

    void label(CharSequence name) {
        build.record.agent = name.toString()
    }

}

class Options extends Block {

    Options(Build build) {
        super(build)
    }

    void disableConcurrentBuilds() {
        build.record.options.disableConcurrentBuilds = [:]
    }

    void timestamps() {
        build.record.options.timestamps = [:]
    }

    void timeout(Map arguments) {
        build.record.options.timeout =
            Arguments.named('timeout', arguments, [time: Integer, unit: String], ['time', 'unit'])
    }

}

class Triggers extends Block {

    Triggers(Build build) {
        super(build)
    }

    void cron(CharSequence spec) {
        build.record.triggers.cron = [spec: spec.toString()]
    }

    void pollSCM(Map arguments) {
        build.record.triggers.pollSCM = Arguments.named(
            'pollSCM', arguments, [scmpoll_spec: String, ignorePostCommitHooks: Boolean], ['scmpoll_spec'])
    }

}

class Environment extends Block {

    private final Map<String, String> values

    Environment(Build build, Map<String, String> values) {
        super(build)
        this.values = values
    }

    void setProperty(String name, Object value) {
        values[name] = value.toString()
    }

}

class Stages extends Block {

    private final List<String> path

    Stages(Build build, List<String> path) {
        super(build)
        this.path = path
    }

    void stage(String name, Closure body) {
        Map<String, String> before = [:] + build.variables
        enter(body, new Stage(build, path + name))
        build.variables.clear()
        build.variables.putAll(before)
    }

}

/** A stage; what follows a condition that does not hold is not evaluated. */
class Stage extends Block {

    private final List<String> path
    private final Map<String, Object> record
    private boolean entered = true

    Stage(Build build, List<String> path) {
        super(build)
        this.path = path
        record = [name: path.join(' / '), entered: true, environment: [:], steps: []]
        build.record.stages << record
    }

    void when(Closure body) {
        Conditions conditions = new Conditions(build)
        enter(body, conditions)
        entered = conditions.held
        record.entered = entered
    }

    void environment(Closure body) {
        if (entered) {
            enter(body, new Environment(build, record.environment))
            build.variables.putAll(record.environment)
        }
    }

    void steps(Closure body) {
        if (entered) {
            enter(body, new Steps(build, record.steps, []))
        }
    }

    void stages(Closure body) {
        if (entered) {
            enter(body, new Stages(build, path))
        }
    }

}

class Conditions extends Block {

    boolean held = true

    Conditions(Build build) {
        super(build)
    }

    void not(Closure body) {
        Conditions inner = new Conditions(build)
        enter(body, inner)
        held &= !inner.held
    }

    void isEqual(Map arguments) {
        if (arguments.keySet() != ['expected', 'actual'] as Set) {
            throw new Refused('`equals` takes `expected` and `actual`')
        }
        held &= arguments.expected == arguments.actual
    }

}

class Post extends Block {

    Post(Build build) {
        super(build)
    }

    void always(Closure body) {
        enter(body, new Steps(build, build.record.post.always = [], []))
    }

    void cleanup(Closure body) {
        enter(body, new Steps(build, build.record.post.cleanup = [], []))
    }

}

class Steps extends Block {

    private final List<Map> record
    private final List<Map> credentials

    Steps(Build build, List<Map> record, List<Map> credentials) {
        super(build)
        this.record = record
        this.credentials = credentials
    }

    void sh(String line) {
        note('sh', [script: line])
    }

    void withCredentials(List bindings, Closure body) {
        bindings.each { each ->
            if (!(each instanceof Map) || !each.binding) {
                throw new Refused('`withCredentials` takes bindings')
            }
        }
        enter(body, new Steps(build, record, credentials + bindings))
    }

    void input(Map arguments) {
        note('input', Arguments.named('input', arguments, [message: String, ok: String], ['message']))
    }

    void archiveArtifacts(Map arguments) {
        note('archiveArtifacts', Arguments.named('archiveArtifacts', arguments,
            [artifacts: String, allowEmptyArchive: Boolean], ['artifacts']))
    }

    void junit(Map arguments) {
        note('junit', Arguments.named('junit', arguments,
            [testResults: String, allowEmptyResults: Boolean], ['testResults']))
    }

    void publishHTML(Map arguments) {
        Map target = Arguments.named('publishHTML', arguments, [target: Map], ['target']).target
        note('publishHTML', Arguments.named('publishHTML', target, [
            reportName: String, reportDir: String, reportFiles: String, keepAll: Boolean,
            alwaysLinkToLastBuild: Boolean, allowMissing: Boolean,
        ], ['reportName', 'reportDir', 'reportFiles', 'keepAll', 'alwaysLinkToLastBuild', 'allowMissing']))
    }

    void deleteDir() {
        note('deleteDir', [:])
    }

    private void note(String step, Map arguments) {
        record << [
            step: step, arguments: arguments, credentials: credentials, environment: [:] + build.variables,
        ]
    }

}

/** `currentBuild`, as much of it as is known. */
class CurrentBuild {

    private final List<String> causes

    CurrentBuild(List<String> causes) {
        this.causes = causes
    }

    List<Map> getBuildCauses(String name) {
        causes.findAll { cause -> cause == name }.collect { cause -> [_class: cause] }
    }

}

/** What a Jenkinsfile may call outside of steps. */
abstract class Globals extends Script {

    void pipeline(Closure body) {
        body.delegate = new Pipeline(binding.getVariable('build'))
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body.call()
    }

    Map usernamePassword(Map arguments) {
        List<String> names = ['credentialsId', 'usernameVariable', 'passwordVariable']
        [binding: 'usernamePassword'] + Arguments.named(
            'usernamePassword', arguments, names.collectEntries { name -> [name, String] }, names)
    }

    Map file(Map arguments) {
        List<String> names = ['credentialsId', 'variable']
        [binding: 'file'] + Arguments.named('file', arguments, names.collectEntries { name -> [name, String] }, names)
    }

}

Map record(Class<Script> type, Map asked) {
    Build build = new Build([:] + asked.env)
    Script script = type.newInstance()
    script.binding = new Binding(
        build: build, params: asked.params, env: build.variables,
        currentBuild: new CurrentBuild(asked.causes))
    script.run()
    build.record
}

Map answer(Map request) {
    Reader reader = new Reader()
    CompilerConfiguration configuration = new CompilerConfiguration(scriptBaseClass: Globals.name)
    configuration.addCompilationCustomizers(reader)
    ClassLoader loader = new GroovyClassLoader(Globals.classLoader, configuration)
    Class<Script> type = loader.parseClass(request.script, 'Jenkinsfile.groovy')
    [builds: request.builds.collect { each -> record(type, each) }, lines: reader.lines]
}

String said(Throwable error) {
    Throwable refused = error
    while (refused != null && !(refused instanceof Refused)) {
        refused = refused.cause
    }
    refused?.message ?: "${error.class.simpleName}: ${error.message}"
}

System.in.eachLine('UTF-8') { line ->
    Map answered
    try {
        answered = answer(new JsonSlurper().parseText(line))
    } catch (Exception error) { // groovylint-disable-line CatchException
        answered = [refused: said(error)]
    }
    println JsonOutput.toJson(answered)
}
